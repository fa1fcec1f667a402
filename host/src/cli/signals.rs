//! SIGINT and SIGTERM: the first asks for an orderly end, the second ends the process at once.

use super::failure::{Exit, Failure};
use super::terminal::note;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels the returned token at the first signal; the process ends at the second. `says` is told to the user at the first.
/// What a second signal leaves behind is what a crash leaves: leases lapse, and nothing is lost.
pub fn listen(says: &'static str) -> Result<CancellationToken, Failure> {
    let refuse = |e: std::io::Error| Failure::failed(format!("signals cannot be received: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refuse)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(refuse)?;
    let token = CancellationToken::new();
    let asked = token.clone();
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        note(says);
        asked.cancel();
        either(&mut interrupt, &mut terminate).await;
        note("stopped at once; leases lapse and their tasks are found again");
        std::process::exit(Exit::Interrupted as i32);
    });
    Ok(token)
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! { _ = a.recv() => {}, _ = b.recv() => {} }
}
