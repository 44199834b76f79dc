//! The suite on this process's own memory.

use super::*;

struct HostRig {
    threads: usize,
    memory: Vec<Box<[u8]>>,
}

impl Rig for HostRig {
    fn copier(&self) -> Copier {
        Copier::host(self.threads).unwrap()
    }

    fn allocate(&mut self, bytes: usize) -> usize {
        let mut memory = vec![0; bytes].into_boxed_slice();
        let base = memory.as_mut_ptr().expose_provenance();
        self.memory.push(memory);
        base
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let target = std::ptr::with_exposed_provenance_mut::<u8>(at);
        // SAFETY: within a tensor that `allocate` made, with no copy under way.
        unsafe { target.copy_from(bytes.as_ptr(), bytes.len()) };
    }

    fn read(&self, at: usize, bytes: usize) -> Vec<u8> {
        // SAFETY: within a tensor that `allocate` made, with no copy under way.
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(at), bytes) }.to_vec()
    }

    fn after(&self) -> After {
        After::Unsaid
    }

    fn compute(&self, at: usize, value: u8, bytes: usize) {
        self.write(at, &vec![value; bytes]);
    }
}

#[test]
fn the_cpu_copies_as_promised() {
    for threads in [0, 1, 3] {
        check(|| HostRig {
            threads,
            memory: Vec::new(),
        });
    }
}

#[test]
fn the_cpu_knows_no_streams() {
    let rig = HostRig {
        threads: 0,
        memory: Vec::new(),
    };
    let mut bench = Bench::new(rig, CacheLayout::simple());
    let one = [bench.transfer(0, 0, 0)];
    let error = bench
        .submit_after(0, Direction::Store, &one, After::Stream(1))
        .unwrap_err();
    assert!(error.to_string().contains("no streams"), "{error}");
}
