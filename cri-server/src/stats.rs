//! What a cgroup has used: read from the kernel, and turned into the interface's words.
