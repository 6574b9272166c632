//! Keeping a vector's memory when what it holds borrows from one batch after another.

/// An empty vector with the memory of one whose elements are of the same layout (another lifetime, say).
#[must_use]
pub fn recycle<T, U>(mut used: Vec<T>) -> Vec<U> {
    used.clear();
    // Collecting a vector's own iterator reuses its memory where the layouts agree.
    used.into_iter().filter_map(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::recycle;

    #[test]
    fn the_memory_is_kept() {
        let owned = String::from("x");
        let mut used: Vec<&str> = Vec::with_capacity(100);
        used.push(&owned);
        let at = used.as_ptr();
        let again: Vec<&'static str> = recycle(used);
        assert!(again.is_empty());
        assert!(again.capacity() >= 100);
        assert_eq!(again.as_ptr(), at);
    }
}
