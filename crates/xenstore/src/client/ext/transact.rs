//! Transactions.

use cantle_abi::Errno;
use cantle_abi::io::xs_wire::XS_TRANSACTION_END;

use super::{learn, tell};
use crate::Error;
use crate::client::{Client, Request, TxId, reply};

/// How often [`TransactExt::transact`] tries before it gives up with [`Errno::EAGAIN`].
pub const TRANSACT_TRIES: u32 = 256;

/// Transactions.
pub trait TransactExt: Client {
    /// Begins a transaction.
    ///
    /// # Errors
    ///
    /// [`Errno::ENOSPC`] where the quota is used up.
    fn transaction_start(&self) -> Result<TxId, Error> {
        let start = Request::transaction_start();
        learn(self, &start, |id| reply::number(id).map(TxId))
    }

    /// Ends a transaction: all of it happens at once, or nothing of it does.
    ///
    /// # Errors
    ///
    /// [`Errno::EAGAIN`] where others changed what it had seen: run it again. [`Errno::ENOENT`] where there is no such
    /// transaction. It is over in either case.
    fn transaction_end(&self, tx: TxId, commit: bool) -> Result<(), Error> {
        tell(self, tx, &Request::transaction_end(commit))
    }

    /// Runs `body` in a transaction and commits it; runs it again where it conflicted, up to [`TRANSACT_TRIES`] times.
    ///
    /// # Errors
    ///
    /// What `body` returned (the transaction is then aborted), or the commit's error.
    fn transact<R>(&self, mut body: impl FnMut(TxId) -> Result<R, Error>) -> Result<R, Error> {
        for _ in 0..TRANSACT_TRIES {
            let tx = self.transaction_start()?;
            let result = match body(tx) {
                Ok(result) => result,
                Err(error) => {
                    // The body's error is what matters; a transaction that cannot be aborted is gone already.
                    let _ = self.transaction_end(tx, false);
                    return Err(error);
                }
            };
            match self.transaction_end(tx, true) {
                Ok(()) => return Ok(result),
                Err(error) if error.is_again() => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(XS_TRANSACTION_END, "", Errno::EAGAIN))
    }
}

impl<C: Client + ?Sized> TransactExt for C {}
