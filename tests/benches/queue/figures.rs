//! What one run came to: how fast, what processor time, what memory; and its first and last tenth.

use super::load::{Place, Store};
use sqlx::{Connection as _, PgConnection, SqliteConnection};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Between two looks at the memory.
const LOOK: Duration = Duration::from_millis(10);

/// Microseconds of one unit of `/proc/self/stat`, and bytes of one of `/proc/self/statm`: the same on every Linux of today.
const TICK_US: f64 = 10_000.0;
const PAGE_MIB: f64 = 4096.0 / 1_048_576.0;

/// See the head of this file.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub tasks_per_s: f64,
    pub cpu_us: f64,
    pub first_tenth_s: f64,
    pub last_tenth_s: f64,
    pub memory_tenth_mib: f64,
    pub memory_end_mib: f64,
    pub memory_peak_mib: f64,
}

impl Figures {
    /// As one line, from one process to the other.
    pub fn line(&self) -> String {
        let all = [
            self.tasks_per_s,
            self.cpu_us,
            self.first_tenth_s,
            self.last_tenth_s,
            self.memory_tenth_mib,
            self.memory_end_mib,
            self.memory_peak_mib,
        ];
        serde_json::to_string(&all).unwrap()
    }

    /// The line back.
    pub fn parse(line: &str) -> Self {
        let [tasks_per_s, cpu_us, first_tenth_s, last_tenth_s, memory_tenth_mib, memory_end_mib, memory_peak_mib] =
            serde_json::from_str(line.trim()).unwrap_or_else(|e| panic!("a run printed {line:?}: {e}"));
        Self { tasks_per_s, cpu_us, first_tenth_s, last_tenth_s, memory_tenth_mib, memory_end_mib, memory_peak_mib }
    }
}

/// Processor time of this process so far, microseconds.
pub fn processor_us() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name in parentheses may hold blanks; user and system time are the 12th and 13th field after it.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<f64>().unwrap() * TICK_US).sum()
}

/// Resident memory of this process.
fn resident_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * PAGE_MIB
}

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Watches this process while a run goes on.
pub struct Watch {
    processor_us: f64,
    over: Arc<AtomicBool>,
    memory: JoinHandle<Vec<(i64, f64)>>,
}

impl Watch {
    pub fn start() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let memory = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                seen.push((unix_ms(), resident_mib()));
                std::thread::sleep(LOOK);
            }
            seen
        });
        Self { processor_us: processor_us(), over, memory }
    }

    /// The run is over: its times are in the rows.
    pub async fn stop(self, place: &Place) -> Figures {
        let spent_us = processor_us() - self.processor_us;
        self.over.store(true, Ordering::Relaxed);
        let memory = self.memory.join().unwrap();
        let (began, ends) = times(place).await;
        assert_eq!(ends.len(), place.tasks as usize, "every task has ended");
        let tenth = ends.len() / 10;
        let (first, last_begins, last) = (ends[tenth - 1], ends[ends.len() - tenth - 1], ends[ends.len() - 1]);
        let seconds = |from: i64, to: i64| (to - from).max(1) as f64 / 1000.0;
        let memory_at = |time: i64| memory.iter().take_while(|(at, _)| *at <= time).last().unwrap_or(&memory[0]).1;
        Figures {
            tasks_per_s: ends.len() as f64 / seconds(began, last),
            cpu_us: spent_us / ends.len() as f64,
            first_tenth_s: seconds(began, first),
            last_tenth_s: seconds(last_begins, last),
            memory_tenth_mib: memory_at(first),
            memory_end_mib: memory_at(last),
            memory_peak_mib: memory.iter().map(|(_, mib)| *mib).fold(0.0, f64::max),
        }
    }
}

/// When the first task was claimed, and when each ended, in order; by the store's clock.
async fn times(place: &Place) -> (i64, Vec<i64>) {
    let began = "SELECT min(claimed_at) FROM claims";
    let ended = "SELECT ended_at FROM tasks WHERE state = 'DONE' ORDER BY ended_at";
    if let Store::Postgres(dsn) = &place.store {
        let mut on = PgConnection::connect(dsn).await.unwrap();
        let began = sqlx::query_scalar(began).fetch_one(&mut on).await.unwrap();
        return (began, sqlx::query_scalar(ended).fetch_all(&mut on).await.unwrap());
    }
    let mut on = SqliteConnection::connect(&format!("sqlite://{}", place.database.display())).await.unwrap();
    let began = sqlx::query_scalar(began).fetch_one(&mut on).await.unwrap();
    (began, sqlx::query_scalar(ended).fetch_all(&mut on).await.unwrap())
}
