//! Kernel modules: what they need, in which order they load, unpacked.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::elf;

/// One module, ready for `insmod`.
#[derive(Debug)]
pub(crate) struct Module {
    /// With underscores, as the kernel names it.
    pub(crate) name: String,
    /// The uncompressed object.
    pub(crate) object: Vec<u8>,
}

/// The modules of one kernel version, by name.
#[derive(Debug)]
pub(crate) struct Modules {
    files: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
}

impl Modules {
    /// Looks through `lib/modules/VERSION`.
    pub(crate) fn scan(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        collect(&folder.join("kernel"), &mut files)?;
        let list = folder.join("modules.builtin");
        let builtin = fs::read_to_string(&list)
            .with_context(|| format!("cannot read {}", list.display()))?
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        Ok(Self { files, builtin })
    }

    /// `wanted` and all they depend on, each after what it needs. What is built into the kernel is left out.
    pub(crate) fn load_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        for name in wanted {
            self.add(&name.replace('-', "_"), &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, order: &mut Vec<Module>) -> Result<()> {
        if order.iter().any(|m| m.name == name) || self.builtin.iter().any(|b| b == name) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            bail!("the kernel has no module {name}");
        };
        let object = read(path)?;
        for needed in depends(&object)? {
            self.add(&needed, order)?;
        }
        order.push(Module {
            name: name.to_owned(),
            object,
        });
        Ok(())
    }
}

fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let list = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in list {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `kernel/fs/9p/9p.ko.xz` is module `9p`; dashes count as underscores.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = file.strip_suffix(".xz").unwrap_or(file);
    Some(stem.strip_suffix(".ko")?.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("cannot read {}", path.display());
    let bytes = fs::read(path).with_context(what)?;
    if path.extension().is_some_and(|e| e == "xz") {
        let mut object = Vec::new();
        liblzma::read::XzDecoder::new(bytes.as_slice())
            .read_to_end(&mut object)
            .with_context(what)?;
        return Ok(object);
    }
    Ok(bytes)
}

/// The names in `.modinfo`'s `depends=`.
fn depends(object: &[u8]) -> Result<Vec<String>> {
    let info = elf::section(object, ".modinfo")?;
    let names = info
        .split(|b| *b == 0)
        .find_map(|field| field.strip_prefix(b"depends="))
        .unwrap_or_default();
    Ok(String::from_utf8_lossy(names)
        .split(',')
        .filter(|n| !n.is_empty())
        .map(|n| n.replace('-', "_"))
        .collect())
}
