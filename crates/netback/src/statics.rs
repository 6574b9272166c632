//! Copying by grant, and past it where a page has been lent once and for all.

use cantle_grant::{Access, CopyPiece, GrantMapper, Local, Mapping};
use cantle_netport::{Part, PartMut};

use crate::control::StaticGrants;

/// Copies each piece: by a static grant where there is one for it, and by its grant else.
pub(crate) fn copy(statics: &StaticGrants, mapper: &dyn GrantMapper, pieces: &mut [CopyPiece<'_>]) {
    if !statics.is_empty() {
        let pages = statics.lock();
        for piece in pieces.iter_mut() {
            let access = match piece.local {
                Local::Into(_) => Access::ReadOnly,
                Local::From(_) | Local::Shared(_) => Access::ReadWrite,
            };
            if let Some(page) = pages.get(piece.gref, access)
                && copy_piece(&page, piece)
            {
                // What is left of it is nothing, with which the mapper is done at once.
                piece.local = Local::From(&[]);
            }
        }
    }
    mapper.copy(pieces);
}

/// Copies one piece; false, and nothing done, where it does not lie in the page.
fn copy_piece(page: &Mapping, piece: &mut CopyPiece<'_>) -> bool {
    let (offset, len) = (usize::from(piece.offset), piece.local.len());
    if let Some(source) = piece.local.source() {
        let Some(mut to) = PartMut::shared(page, offset, len) else {
            return false;
        };
        to.copy_from_shared(source);
        return true;
    }
    match (&mut piece.local, Part::shared(page, offset, len)) {
        (Local::Into(buffer), Some(from)) => from.copy_to(buffer) == len,
        _ => false,
    }
}
