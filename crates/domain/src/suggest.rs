//! The nearest known name to one that is not known.

/// Damerau-Levenshtein (optimal string alignment) distance.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best =
                (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// The name among `known` that `unknown` most likely meant, if any is near.
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if unknown.len() > 64 {
        return None;
    }
    let limit = (unknown.chars().count() / 3).max(2);
    known
        .into_iter()
        .filter(|k| k.len() <= 64)
        .map(|k| (distance(unknown, k), k))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, k)| k)
}

/// A deserialiser's message with the nearest name added where it complains of an unknown one.
#[must_use]
pub fn explain_unknown(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match quoted.split_first() {
        Some((unknown, known)) if message.contains("unknown ") => {
            match nearest(unknown, known.iter().copied()) {
                Some(name) => format!("{message}; did you mean `{name}`?"),
                None => message.to_owned(),
            }
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_near_and_leaves_the_far() {
        let known = ["context", "actions", "request_id"];
        assert_eq!(nearest("contxet", known), Some("context"));
        assert_eq!(nearest("requestid", known), Some("request_id"));
        assert_eq!(nearest("banana", known), None);
        let message = "unknown field `acton`, expected one of `action`, `at`";
        assert!(explain_unknown(message).ends_with("did you mean `action`?"));
    }
}
