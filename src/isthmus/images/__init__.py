"""Images: root file systems, as directories that overlayfs can stack, with what they say of programs in them."""
