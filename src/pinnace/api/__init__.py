"""The vocabulary: wire types per group and version, quantities, selectors, patches, errors. No behaviour of a part."""
