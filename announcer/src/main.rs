//! The node agent `crier`.
fn main() {}
