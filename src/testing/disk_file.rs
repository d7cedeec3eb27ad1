//! An open file on the disk that fails.

use std::io;

use rustix::io::Errno;

use super::disk::{Fault, FaultDisk};
use crate::segment::DiskFile;

#[derive(Debug)]
pub(super) struct FaultFile {
    pub(super) disk: FaultDisk,
    pub(super) node: usize,
}

impl DiskFile for FaultFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        if state.strikes(Fault::ReadError) {
            return Err(Errno::IO.into());
        }
        state.content(self.node)?.read(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.count_call();
        if state.strikes(Fault::Full) {
            return Err(Errno::NOSPC.into());
        }
        let may = state.take_space(self.node, offset + bytes.len() as u64)?.saturating_sub(offset);
        let mut take = bytes.len().min(usize::try_from(may).unwrap_or(usize::MAX));
        if take == 0 && !bytes.is_empty() {
            return Err(Errno::NOSPC.into());
        }
        let fails = state.strikes(Fault::WriteError);
        if fails {
            take = if state.random.bool() { state.random.usize(..=take) } else { 0 };
        } else if take > 1 && state.strikes(Fault::ShortWrite) {
            take = state.random.usize(1..take);
            if state.random.bool() {
                state.planned.push(Fault::Full);
            }
        }
        state.content(self.node)?.write(&bytes[..take], offset);
        if fails { Err(Errno::IO.into()) } else { Ok(take) }
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        if !state.allocates {
            return Ok(());
        }
        if state.take_space(self.node, bytes)? < bytes {
            return Err(Errno::NOSPC.into());
        }
        let content = state.content(self.node)?;
        let length = content.length().max(bytes);
        content.set_length(length);
        Ok(())
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.disk.state().content(self.node)?.set_length(bytes);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().content(self.node)?.length())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.count_call();
        let fails = state.strikes(Fault::SyncError);
        let content = state.content(self.node)?;
        if fails {
            content.forget();
            return Err(Errno::IO.into());
        }
        content.force();
        Ok(())
    }
}
