"""How every part talks to the API: `Client` over a `Transport`, informers, kubeconfig."""
