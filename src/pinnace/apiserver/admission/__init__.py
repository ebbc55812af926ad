"""What the server adds to and demands of writes beyond a kind's own rules. One file a plugin; `default` lists them."""
