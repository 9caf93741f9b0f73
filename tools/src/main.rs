//! `crierctl`: looks into a running agent and acts on it.
fn main() {}
