"""Services: how they are defaulted, checked and shown, and who gets which cluster IP and node port."""
