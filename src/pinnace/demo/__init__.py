"""The demo that `pinnace demo` deploys: a guestbook in two tiers. The files in `app` run inside its containers."""
