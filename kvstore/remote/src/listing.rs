//! Going through what lies in many directories: each is listed once, some at a time, a page after the other.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};

use crate::backend::{Backend, Fault, Meta};

/// Objects that are listed together.
pub(crate) const LIST_AT_ONCE: usize = 1000;

/// Directories that are listed at a time for somebody who waits for it: as many as the questions of a tier.
pub(crate) const EAGER: usize = 16;

/// The same for what nobody waits for, beside a tier that serves.
pub(crate) const GENTLE: usize = 4;

/// Some objects of a directory.
pub(crate) struct Page {
    /// Which directory.
    pub(crate) directory: String,
    /// The objects, in the order of their names.
    pub(crate) objects: Vec<Meta>,
    /// Whether these are the last ones.
    pub(crate) is_last: bool,
}

type Pages = Pin<Box<dyn Stream<Item = Result<Page, Fault>> + Send>>;

/// The pages of all these directories, at least one of each. `at_once` directories are listed at a time, and one page of each is in
/// memory.
pub(crate) fn pages(
    backend: &Arc<dyn Backend>,
    directories: impl Iterator<Item = String> + Send + 'static,
    at_once: usize,
) -> Pages {
    let backend = backend.clone();
    let each = stream::iter(directories).map(move |directory| of_directory(backend.clone(), directory));
    Box::pin(each.flatten_unordered(at_once))
}

/// The pages of one directory. One that is not full is the last: nobody is asked whether there is one behind it.
pub(crate) fn of_directory(backend: Arc<dyn Backend>, directory: String) -> Pages {
    // Where the next page begins; the first one does at the start.
    let first: Option<Option<String>> = Some(None);
    Box::pin(stream::try_unfold(first, move |next| {
        let (backend, directory) = (backend.clone(), directory.clone());
        async move {
            let Some(after) = next else { return Ok(None) };
            let objects = backend.list(&directory, after.as_deref(), LIST_AT_ONCE).await?;
            let last = objects.last().filter(|_| objects.len() >= LIST_AT_ONCE);
            let next = last.map(|last| Some(last.name.clone()));
            let page = Page {
                directory,
                objects,
                is_last: next.is_none(),
            };
            Ok(Some((page, next)))
        }
    }))
}
