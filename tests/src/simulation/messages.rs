//! What is checked about messages of brokers: none is acknowledged before the store holds all that it asked for, and none is sent for a
//! task whose parent has not ended.

use super::ledger::shown;
use super::world::World;
use tokio::time::Instant;
use wasm_worker::task::children::FAILURE;
use wasm_worker::task::id::{TaskKey, sha256};
use wasm_worker::task::message::{Message, MessageBounds};
use wasm_worker::task::state::TaskState;
use wasm_worker::task_store::{DeadLetter, DeadLetterFilter};

/// The task that a message is for; none where it is no valid message.
fn key_of(body: &[u8]) -> Option<TaskKey> {
    let message = Message::decode(body, &MessageBounds::default()).ok()?;
    Some(TaskKey::new(message.tenant.unwrap_or_default(), message.task_id))
}

impl World {
    /// A message that was delivered then has gone for good.
    pub async fn check_acknowledged(&self, who: &str, queue: &str, body: &[u8], delivered: Instant) {
        let known = key_of(body);
        let name = known.as_ref().map_or_else(|| sha256(body), shown);
        self.ledger().note(who, "acknowledged", format_args!("{name} of {queue}"));
        if let Some(key) = &known
            && let Ok(task) = self.tasks.task(&key.tenant, &key.task_id).await
            && (task.state.is_ended() || self.ledger().record(key).is_some_and(|r| r.redriven_at.is_some_and(|at| at > delivered)))
        {
            // One that was put back meanwhile got a message of its own.
            return;
        }
        // No task, or somebody else's: then a dead letter keeps it.
        let letters = self.tasks.dead_letters(DeadLetterFilter::default()).await.unwrap_or_default();
        let of_it =
            |letter: &DeadLetter| letter.message.as_bytes() == body || known.is_some() && known == key_of(letter.message.as_bytes());
        if !letters.iter().any(of_it) {
            self.ledger().violate(2, format_args!("the message of {name} is acknowledged before the store holds its end"));
        }
    }

    /// A message is on its way to a queue.
    pub async fn check_sent(&self, who: &str, queue: &str, body: &str) {
        let Some(key) = key_of(body.as_bytes()) else {
            return self.ledger().violate(4, format_args!("what is sent to {queue} is no message: {body}"));
        };
        self.ledger().sent(who, queue, &key);
        let row = self.tasks.task(&key.tenant, &key.task_id).await.ok();
        let parent = self.ledger().record(&key).and_then(|record| record.parent.clone());
        let follows_failure = row.as_ref().is_some_and(|task| task.key == FAILURE);
        let Some(parent) = parent.filter(|_| !follows_failure) else { return };
        let ended = self.tasks.task(&parent.tenant, &parent.task_id).await.is_ok_and(|p| p.state == TaskState::Done);
        if !ended {
            let text = format_args!("{} is sent before {} has ended", shown(&key), shown(&parent)).to_string();
            self.ledger().violate(4, text);
        }
    }
}
