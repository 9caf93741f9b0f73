//! Whole clusters with the watch in them.
