"""CRI: images, sandboxes and containers. `cri` is the door; behind it the built-in runtime over runc and conmon."""
