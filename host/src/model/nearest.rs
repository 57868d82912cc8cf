//! Spelling suggestions for unknown names.

/// The known name with the smallest edit distance (Levenshtein) to the given one. Empty if there
/// are no known names.
pub fn nearest(given: &str, known: impl Iterator<Item = String>) -> String {
    let distance = |a: &str, b: &str| {
        let b: Vec<char> = b.chars().collect();
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, x) in a.chars().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i + 1);
            for (j, y) in b.iter().enumerate() {
                let replace = diagonal + usize::from(x != *y);
                diagonal = row[j + 1];
                row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
            }
        }
        row[b.len()]
    };
    known.min_by_key(|name| distance(given, name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_edits_win() {
        let known = || ["cpu-ms", "wall-ms", "memory-mib"].into_iter().map(String::from);
        assert_eq!(nearest("cpu-mss", known()), "cpu-ms");
        assert_eq!(nearest("memory", known()), "memory-mib");
        assert_eq!(nearest("x", std::iter::empty()), "");
    }
}
