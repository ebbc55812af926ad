"""One file a kind, or a small family of kinds. `table.RESOURCES` lists them all."""
