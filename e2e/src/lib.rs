//! The testbed: hosts as network namespaces on one bridge.
