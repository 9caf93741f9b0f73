//! temporary
/// hint
pub fn closest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String { let _=(wrong, known.into_iter().count()); String::new() }
