//! An error with its causes, for people.

use std::error::Error;

/// An error with everything that caused it, in one line. What a text repeats of its cause is not
/// said twice.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("can't open the store")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("can't read x: {0}")]
    struct Inner(#[source] std::io::Error);

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let error = Outer(Inner(std::io::Error::other("disk full")));
        assert_eq!(chain(&error), "can't open the store: can't read x: disk full");
    }
}
