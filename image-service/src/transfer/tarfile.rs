//! Writes archives: plain files in a tar, each of a size known beforehand or filled in afterwards.

use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::layout::{self, LAYOUT, Placed};
use super::target::refuse_existing;
use crate::error::Error;
use crate::import::blob_file;
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::registry::Raw;

const BLOCK: u64 = 512;

/// A tar file that grows, and is at its place when it is whole.
#[derive(Debug)]
pub(super) struct TarFile {
    placed: Placed,
    /// Where the entry's header is, while one is being written, and its name.
    open: Option<(u64, String)>,
    position: u64,
}

impl TarFile {
    pub(super) fn create(path: &Path) -> Result<TarFile, Error> {
        refuse_existing(path)?;
        Ok(TarFile { placed: Placed::begin(path.to_owned())?, open: None, position: 0 })
    }

    /// Begins a file, whose size [`TarFile::end`] fills in.
    pub(super) fn begin(&mut self, name: &str) -> Result<(), Error> {
        self.open = Some((self.position, name.to_owned()));
        self.write(&[0; BLOCK as usize])
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.placed.write(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn end(&mut self) -> Result<(), Error> {
        let Some((start, name)) = self.open.take() else { return Ok(()) };
        let size = self.position - start - BLOCK;
        self.write(&vec![0; (size.wrapping_neg() % BLOCK) as usize])?;
        let failed = |error| Error::io("writing", self.placed.place(), error);
        let header = header(&name, size).map_err(failed)?;
        self.placed.file().write_all_at(header.as_bytes(), start).map_err(failed)
    }

    pub(super) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.begin(name)?;
        self.write(bytes)?;
        self.end()
    }

    /// Gives the entry that is being written another name.
    pub(super) fn rename_entry(&mut self, name: &str) {
        if let Some((_, old)) = &mut self.open {
            name.clone_into(old);
        }
    }

    /// Takes back the entry that is being written.
    pub(super) fn drop_entry(&mut self) -> Result<(), Error> {
        let Some((start, _)) = self.open.take() else { return Ok(()) };
        self.position = start;
        let mut file = self.placed.file();
        let back = file.set_len(start).and_then(|()| file.seek(SeekFrom::Start(start)));
        back.map(|_| ()).map_err(|error| Error::io("writing", self.placed.place(), error))
    }

    pub(super) fn commit(mut self) -> Result<(), Error> {
        self.write(&[0; 2 * BLOCK as usize])?;
        self.placed.commit()
    }

    pub(super) fn shown(&self) -> String {
        self.placed.place().display().to_string()
    }
}

fn header(name: &str, size: u64) -> std::io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_cksum();
    Ok(header)
}

/// An OCI layout in a tar.
#[derive(Debug)]
pub(super) struct OciArchive {
    tar: Option<TarFile>,
    shown: String,
    reference: Option<String>,
}

impl OciArchive {
    pub(super) fn create(path: &Path, reference: Option<String>) -> Result<OciArchive, Error> {
        let mut tar = TarFile::create(path)?;
        tar.put("oci-layout", LAYOUT)?;
        Ok(OciArchive { shown: tar.shown(), tar: Some(tar), reference })
    }

    pub(super) fn begin(&mut self, blob: &Descriptor) -> Result<(), Error> {
        let name = blob_file(&blob.digest);
        self.tar()?.begin(&name)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.tar()?.write(bytes)
    }

    pub(super) fn end(&mut self, _: &Descriptor) -> Result<(), Error> {
        self.tar()?.end()
    }

    pub(super) fn document(&mut self, raw: &Raw) -> Result<(), Error> {
        let name = blob_file(&raw.digest);
        self.tar()?.put(&name, &raw.bytes)
    }

    pub(super) fn finish(&mut self, top: &Raw, name: Option<&Reference>) -> Result<(), Error> {
        let entry = layout::entry(top, self.reference.as_deref(), name);
        let index = layout::index(&[entry]);
        self.tar()?.put("index.json", index.to_string().as_bytes())?;
        self.tar.take().map_or(Ok(()), TarFile::commit)
    }

    fn tar(&mut self) -> Result<&mut TarFile, Error> {
        self.tar.as_mut().ok_or_else(|| Error::invalid(&self.shown, "it is written already"))
    }
}
