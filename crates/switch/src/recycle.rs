//! Keeping a vector's memory when what it holds borrows from one batch after another.

/// An empty vector with the memory of one whose elements are of the same layout (another lifetime, say).
pub(crate) fn recycle<T, U>(mut used: Vec<T>) -> Vec<U> {
    used.clear();
    // Collecting a vector's own iterator reuses its memory where the layouts agree.
    used.into_iter().filter_map(|_| None).collect()
}
