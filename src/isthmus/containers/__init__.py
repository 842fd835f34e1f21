"""Containers: programs in sandboxes, run by an OCI runtime (runc, crun) under a monitor (conmon) that outlives us."""
