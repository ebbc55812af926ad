"""The group apiserverinternal."""
