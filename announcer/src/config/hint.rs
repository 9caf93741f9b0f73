//! "Did you mean ...?"

/// A hint to add to a message about an unknown name: the closest of the known ones, or all if none is close.
pub(crate) fn closest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 16;
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    let wrong_lower = wrong.to_lowercase();
    let best = known.iter().map(|name| (distance(&wrong_lower, &name.to_lowercase()), *name)).min();
    match best {
        // Up to a third of the letters may differ: more is another word.
        Some((distance, name)) if distance * 3 <= wrong.len().max(name.len()) => format!("; did you mean {name:?}?"),
        Some(_) if known.len() <= SHOWN => format!("; known are {}", known.join(", ")),
        _ => String::new(),
    }
}

/// Levenshtein distance in bytes; long names are all far away from each other.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 64;
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::from(a != b) * a.len().max(b.len());
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, pair) in b.bytes().zip(row.windows(2)) {
            left = (pair[0] + usize::from(x != y)).min(pair[1] + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        assert_eq!(closest("intervall", ["interval", "misses"]), "; did you mean \"interval\"?");
        assert_eq!(closest("Keyfile", ["bind", "keyFile"]), "; did you mean \"keyFile\"?");
        assert_eq!(closest("colour", ["interval", "misses"]), "; known are interval, misses");
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
