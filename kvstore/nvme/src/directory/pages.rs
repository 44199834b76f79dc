//! Memory at the alignment that direct I/O wants.

use std::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::format::PAGE;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// Whole pages of zeroed private memory, aligned to a page.
pub(crate) struct Pages(Vec<Page>);

impl Pages {
    /// `count` pages of zeroes.
    pub(crate) fn new(count: usize) -> Self {
        Self(vec![Page::new_zeroed(); count])
    }

    /// One page.
    ///
    /// # Panics
    /// When there is no such page.
    pub(crate) fn page(&self, index: usize) -> &[u8; PAGE] {
        &self.0[index].0
    }

    /// One page, to write.
    ///
    /// # Panics
    /// When there is no such page.
    pub(crate) fn page_mut(&mut self, index: usize) -> &mut [u8; PAGE] {
        &mut self.0[index].0
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_bytes()
    }
}
