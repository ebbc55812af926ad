"""One file a plugin. `framework` holds their shape, `registry` lists those that run."""
