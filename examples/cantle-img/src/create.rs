//! `create`.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use cantle_disk::{CreateSpec, ImageFormat, create_for};

use crate::chain::name_for;
use crate::cli::{Cli, Create, Options};
use crate::image::{Opened, Use};
use crate::interrupt::Interrupt;
use crate::size::Size;
use crate::workshop::Workshop;

/// The units that some format has.
const MAX_UNIT: u64 = 256 << 20;

pub(crate) fn create(cli: &Cli, args: &Create) -> Result<u8> {
    let interrupt = Interrupt::watch()?;
    let format = args.format.unwrap_or(ImageFormat::by_name(&args.file));
    let parent = open_parent(cli, &args.options)?;
    let size = match (args.size, &parent) {
        (Some(size), _) => size.0,
        (None, Some(parent)) => parent.format.geometry().bytes(),
        (None, None) => bail!("cannot make {}: no size is given", args.file.display()),
    };
    let shop = Workshop::open(&args.file, args.options.overwrite)?;
    let mut spec = spec(format, size, &args.options.options)?;
    set_parent(&mut spec, &shop, &args.options, parent.as_ref())?;
    create_for(shop.file(), shop.place(), &spec)?;
    interrupt.check()?;
    shop.finish()?;
    Ok(0)
}

/// The parent that a new image is to have.
pub(crate) fn open_parent(cli: &Cli, options: &Options) -> Result<Option<Opened>> {
    let Some(path) = &options.backing else {
        return Ok(None);
    };
    let opened = Opened::open(path, options.backing_format, cli.parents, Use::Read)?;
    Ok(Some(opened))
}

/// Puts the parent into what is to be made, as the format wants it named.
pub(crate) fn set_parent(
    spec: &mut CreateSpec,
    shop: &Workshop,
    options: &Options,
    parent: Option<&Opened>,
) -> Result<()> {
    let (Some(path), Some(parent)) = (&options.backing, parent) else {
        return Ok(());
    };
    spec.parent = Some((
        parent_name(spec.format, shop.place(), path, parent.kind)?,
        parent.kind,
    ));
    Ok(())
}

/// How an image at `place` is to be told of its parent.
pub(crate) fn parent_name(
    format: ImageFormat,
    place: &Path,
    path: &Path,
    kind: ImageFormat,
) -> Result<std::path::PathBuf> {
    let absolute = path
        .canonicalize()
        .with_context(|| format!("cannot find parent {}", path.display()))?;
    ensure!(
        absolute != place,
        "cannot make {}: it would be its own parent",
        place.display()
    );
    match format {
        ImageFormat::Qcow2 => {
            ensure!(
                matches!(kind, ImageFormat::Raw | ImageFormat::Qcow2),
                "cannot make {}: the parent of a qcow2 image is raw or qcow2 here, not {kind}",
                place.display()
            );
            name_for(place, path)
        }
        _ => Ok(absolute),
    }
}

/// What is to be made, by the words of `-o`.
pub(crate) fn spec(format: ImageFormat, size: u64, options: &[String]) -> Result<CreateSpec> {
    let mut spec = CreateSpec::new(format, size);
    for option in options {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option.as_str(), None),
        };
        match (key, value) {
            ("preallocate", None | Some("on")) => spec.preallocate = true,
            ("preallocate", Some("off")) => spec.preallocate = false,
            ("unit", Some(value)) => {
                let unit: Size = value
                    .parse()
                    .with_context(|| format!("cannot take -o {option}"))?;
                let unit = u32::try_from(unit.0.min(MAX_UNIT + 1))?;
                spec.unit = Some(unit);
            }
            _ => bail!("cannot take -o {option}: preallocate and unit=SIZE are the options"),
        }
    }
    ensure!(
        spec.unit.is_none() || format != ImageFormat::Raw,
        "cannot take -o unit: raw images have none"
    );
    Ok(spec)
}
