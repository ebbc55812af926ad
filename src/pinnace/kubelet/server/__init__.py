"""The node's own HTTPS server (:10250): logs, exec, attach, port-forward, stats."""
