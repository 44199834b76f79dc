//! Sweeping one namespace: who was read when, how old is what, what goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::TryStreamExt;
use kvstore_types::NamespaceId;

use super::lease::Held;
use super::plan::{Ages, Cut, age};
use crate::backend::{Backend, Fault, Hold, Meta};
use crate::format::{
    TEMPORARY, Touched, TouchedBlock, block_directories, parse_block_name, temporary_directory,
    touched_directory,
};
use crate::listing::{Page, of_directory, pages};
use crate::{FaultKind, Progress, SweepLimits};

/// Blocks that are removed together.
const REMOVED_AT_ONCE: usize = 200;

/// Most accesses that are kept in mind. Older ones are forgotten first: then blocks seem to have been written last.
const TOUCHED_MAX: usize = 4 << 20;

/// Records of accesses that are older than all blocks may get are removed; without a bound on age, after this.
const TOUCHED_AGE_MAX: Duration = Duration::from_hours(30 * 24);

/// What a sweep found and did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Blocks there were.
    pub blocks: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Blocks that were removed.
    pub blocks_removed: u64,
    /// Bytes of those.
    pub bytes_removed: u64,
    /// Half-written files that were removed.
    pub temporaries_removed: u64,
    /// Records of accesses that were removed.
    pub touched_removed: u64,
    /// Objects in the place of blocks that are none. They are left alone.
    pub unknown: u64,
}

/// Whether a fault tells of the one object that was asked for, and nothing of the store.
pub(crate) fn is_of_one_object(fault: &Fault) -> bool {
    matches!(
        fault.kind,
        FaultKind::NameTaken | FaultKind::Denied | FaultKind::Truncated | FaultKind::Protocol
    )
}

/// One sweep of one namespace.
pub(crate) struct Sweep<'s> {
    pub(crate) backend: &'s Arc<dyn Backend>,
    pub(crate) namespace: NamespaceId,
    pub(crate) limits: SweepLimits,
    pub(crate) temporary_age: Duration,
    /// By the store's clock.
    pub(crate) now: SystemTime,
    /// The lease that removals need; `None`: nothing is removed, only counted.
    pub(crate) held: Option<Held>,
    /// Directories that are listed at a time.
    pub(crate) lists_at_once: usize,
    /// Hears how far it is.
    pub(crate) progress: &'s Progress,
}

impl Sweep<'_> {
    /// Does it. The lease comes back in each case, unless it was lost.
    pub(crate) async fn run(mut self) -> (Option<Held>, Result<SweepReport, Fault>) {
        let mut report = SweepReport::default();
        let swept = self.sweep(&mut report).await;
        (self.held, swept.map(|()| report))
    }

    async fn sweep(&mut self, report: &mut SweepReport) -> Result<(), Fault> {
        let touched = self.read_touched(report).await?;
        self.remove_temporaries(report).await?;
        let ages = self.count(&touched, report).await?;
        (report.blocks, report.bytes) = (ages.blocks, ages.bytes);
        if let Some(cut) = ages.cut(&self.limits) {
            self.remove(cut, &touched, report).await?;
        }
        Ok(())
    }

    async fn list_all(&self, directory: &str) -> Result<Vec<Meta>, Fault> {
        let pages = of_directory(self.backend.clone(), directory.to_owned());
        let append = |mut all: Vec<Meta>, page: Page| async move {
            all.extend(page.objects);
            Ok(all)
        };
        pages.try_fold(Vec::new(), append).await
    }

    /// When blocks were read last, as far as records say.
    async fn read_touched(
        &mut self,
        report: &mut SweepReport,
    ) -> Result<HashMap<TouchedBlock, SystemTime>, Fault> {
        let directory = touched_directory(self.namespace);
        let mut records = self.list_all(&directory).await?;
        // The newest first: what does not fit was not read for long.
        records.sort_by_key(|record| std::cmp::Reverse(record.modified));
        let old = self.limits.age_max.unwrap_or(TOUCHED_AGE_MAX);
        let is_old = |record: &Meta| self.now.duration_since(record.modified).unwrap_or_default() >= old;
        let from = records.partition_point(|record| !is_old(record));
        let expired = records.split_off(from);
        let mut touched = HashMap::new();
        for record in records {
            if touched.len() >= TOUCHED_MAX {
                break;
            }
            let name = format!("{directory}/{}", record.name);
            // One that is gone, damaged or of no use says nothing, and goes when it is old.
            let found = match self.backend.get_small(&name, Touched::BYTES_MAX).await {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(fault) if is_of_one_object(&fault) => continue,
                Err(fault) => return Err(fault),
            };
            let said = Touched::decode(&found.bytes).filter(|said| said.namespace == self.namespace);
            for block in said.into_iter().flat_map(|said| said.blocks) {
                touched.entry(block).or_insert(record.modified);
            }
        }
        let names = expired
            .into_iter()
            .map(|record| format!("{directory}/{}", record.name));
        report.touched_removed = self.remove_all(names.collect()).await?;
        Ok(touched)
    }

    async fn remove_temporaries(&mut self, report: &mut SweepReport) -> Result<(), Fault> {
        for directory in [&temporary_directory(self.namespace), TEMPORARY] {
            let files = self.list_all(directory).await?;
            let is_stale = |file: &&Meta| {
                self.now.duration_since(file.modified).unwrap_or_default() >= self.temporary_age
            };
            let stale = files.iter().filter(is_stale);
            let names = stale.map(|file| format!("{directory}/{}", file.name)).collect();
            report.temporaries_removed += self.remove_all(names).await?;
        }
        Ok(())
    }

    async fn count(
        &mut self,
        touched: &HashMap<TouchedBlock, SystemTime>,
        report: &mut SweepReport,
    ) -> Result<Ages, Fault> {
        let mut ages = Ages::default();
        let directories = block_directories(self.namespace);
        let mut pages = pages(self.backend, directories, self.lists_at_once);
        while let Some(page) = pages.try_next().await? {
            self.keep_lease().await?;
            for object in &page.objects {
                match self.age_of(&page.directory, object, touched) {
                    Some(age) => ages.add(age, object.bytes),
                    None => report.unknown += 1,
                }
            }
            (self.progress)(page.objects.len(), page.is_last);
        }
        Ok(ages)
    }

    /// Since when a block was not used, in steps; `None`: it is no block.
    fn age_of(
        &self,
        directory: &str,
        object: &Meta,
        touched: &HashMap<TouchedBlock, SystemTime>,
    ) -> Option<u64> {
        let key = parse_block_name(self.namespace, directory, &object.name)?;
        let read = touched.get(&TouchedBlock::from(&key)).copied();
        let used = read.map_or(object.modified, |read| read.max(object.modified));
        Some(age(self.now, used))
    }

    async fn remove(
        &mut self,
        mut cut: Cut,
        touched: &HashMap<TouchedBlock, SystemTime>,
        report: &mut SweepReport,
    ) -> Result<(), Fault> {
        let directories = block_directories(self.namespace);
        let mut pages = pages(self.backend, directories, self.lists_at_once);
        while let Some(Page {
            directory, objects, ..
        }) = pages.try_next().await?
        {
            self.keep_lease().await?;
            let (mut names, mut bytes) = (Vec::new(), 0);
            for object in objects {
                let age = self.age_of(&directory, &object, touched);
                if !age.is_some_and(|age| cut.takes(age, object.bytes)) {
                    continue;
                }
                names.push(format!("{directory}/{}", object.name));
                bytes += object.bytes;
            }
            report.blocks_removed += names.len() as u64;
            report.bytes_removed += bytes;
            self.remove_all(names).await?;
        }
        Ok(())
    }

    /// Renews the lease when it is time. Counting takes long where there is much, and others must not lose patience.
    async fn keep_lease(&mut self) -> Result<(), Fault> {
        let now = Instant::now();
        let Some(held) = self.held.take_if(|held| held.is_due(now)) else {
            return Ok(());
        };
        let held = held.renew(&**self.backend, now).await?;
        let lost = || Fault::new(FaultKind::Denied, "another node sweeps");
        self.held = Some(held.ok_or_else(lost)?);
        Ok(())
    }

    /// Removes objects under the lease.
    async fn remove_all(&mut self, names: Vec<String>) -> Result<u64, Fault> {
        for some in names.chunks(REMOVED_AT_ONCE) {
            if self.held.is_none() {
                // Only counted.
                break;
            }
            self.keep_lease().await?;
            let hold: Hold = Arc::new(());
            self.backend.delete(some.to_vec(), hold).await?;
        }
        Ok(names.len() as u64)
    }
}
