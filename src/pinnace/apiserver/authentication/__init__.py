"""Who are you? Client certificates, bearer tokens, service account tokens; and anonymous."""
