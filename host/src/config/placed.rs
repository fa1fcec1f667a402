//! A pipeline on a machine: names of queues become addresses, and `QUEUE_URL` and `NEXT_QUEUE_URL` say where the entry's tasks and their
//! children wait. What workers of a queue need to share is checked here, where both files are known.
//!
//! A lone guest that reads a broker's queue is one step, named after that queue, and what goes to `NEXT_QUEUE_URL` is of a step named after
//! that one: whoever sends and whoever reads agree without a file that both know.

use super::host::Config;
use super::pipeline::{Elsewhere, Pipeline};
use super::queue::{BrokerAt, QueueAt};
use super::section::{ConfigError, Problem};

impl Pipeline {
    /// The pipeline as this machine runs it. `source` names its file.
    pub fn placed(mut self, config: &Config, source: &str) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut fault = |step: &str, key: &str, value: String, expected: String| {
            problems.push(Problem { key: format!("steps.{step}.{key}"), value, source: source.to_owned(), expected });
        };
        for step in &mut self.steps {
            if let Err(e) = resolve(&mut step.queue, config) {
                fault(&step.name, "queue", shown(&step.queue), e);
            }
            if step.table.is_some() && step.table != config.store {
                let text = format!("is the table of another database than the one that tasks are kept in, {}", config.named("store.dsn"));
                fault(&step.name, "queue", format!("{:?}", step.table), text);
            }
        }
        for step in &mut self.elsewhere {
            if let Err(e) = resolve(&mut step.queue, config) {
                fault(&step.name, "queue", shown(&step.queue), e);
            }
        }
        self.place_entry(config);
        self.place_next(config).unwrap_or_else(|problem| problems.push(problem));
        self.check(config, source, &mut problems);
        if problems.is_empty() { Ok(self) } else { Err(ConfigError(problems)) }
    }

    /// `QUEUE_URL` is where the entry's tasks wait, whatever the file says.
    fn place_entry(&mut self, config: &Config) {
        let Some(mut queue) = config.queue.url.clone() else { return };
        // What it stands for was checked with the machine's file.
        if resolve(&mut queue, config).is_err() {
            return;
        }
        let entry = self.entry.clone();
        let Some(step) = self.steps.iter_mut().find(|step| step.name == entry) else { return };
        if self.is_made_up
            && let QueueAt::Broker(at) = &queue
        {
            step.name = config.queue.step.clone().unwrap_or_else(|| at.step());
            self.entry.clone_from(&step.name);
        }
        step.queue = queue;
    }

    /// `NEXT_QUEUE_URL` is where the entry's children go: to the step that the file names, or to one that others run.
    fn place_next(&mut self, config: &Config) -> Result<(), Problem> {
        let Some(mut queue) = config.queue.next.clone() else { return Ok(()) };
        if resolve(&mut queue, config).is_err() {
            return Ok(());
        }
        let foreign = config.queue.next_foreign;
        let own = config.queue.next_step.clone().or_else(|| if let QueueAt::Broker(at) = &queue { Some(at.step()) } else { None });
        let Some(entry) = self.steps.iter().position(|step| step.name == self.entry) else { return Ok(()) };
        let named = self.steps.get(entry).and_then(|step| step.next.clone()).filter(|_| !foreign);
        let Some(next) = named.or(own) else {
            let source = config.setting("queue.next").and_then(|setting| setting.source.clone()).unwrap_or_default();
            let text = "is the tasks table, and the entry step has no `next` whose tasks could wait there; \
                        expected the queue of a broker, or a pipeline file with such a step";
            return Err(Problem { key: "queue.next".to_owned(), value: "table".to_owned(), source, expected: text.to_owned() });
        };
        if !foreign && let Some(step) = self.steps.iter_mut().find(|step| step.name == next) {
            step.queue = queue;
        } else if let Some(step) = self.elsewhere.iter_mut().find(|step| step.name == next) {
            (step.queue, step.foreign) = (queue, foreign);
        } else {
            self.elsewhere.push(Elsewhere { name: next.clone(), queue, foreign, max_attempts: None });
        }
        if let Some(step) = self.steps.get_mut(entry) {
            step.next = Some(next);
        }
        Ok(())
    }

    /// What the machine's store must be for these queues. Those that the machine itself names were checked with its file.
    fn check(&self, config: &Config, source: &str, problems: &mut Vec<Problem>) {
        let machine: Vec<String> = config.brokers().into_iter().map(|(_, at)| at.name()).collect();
        let here = self.steps.iter().map(|step| (&step.name, &step.queue, false));
        for (name, queue, foreign) in here.chain(self.elsewhere.iter().map(|step| (&step.name, &step.queue, step.foreign))) {
            let QueueAt::Broker(at) = queue else { continue };
            if machine.contains(&at.name()) {
                continue;
            }
            let mut fault = |expected: String| {
                problems.push(Problem { key: format!("steps.{name}.queue"), value: at.name(), source: source.to_owned(), expected });
            };
            if let Some(why) = config.not_shared().filter(|_| !foreign) {
                fault(why);
            }
            if config.normal_durability {
                fault("a power cut would forget what was acknowledged there: expected store.durability = \"full\"".to_owned());
            }
        }
    }

    /// Every broker's queue of it, once.
    pub fn brokers(&self) -> Vec<&BrokerAt> {
        let mut all: Vec<&BrokerAt> = Vec::new();
        for queue in self.steps.iter().map(|step| &step.queue).chain(self.elsewhere.iter().map(|step| &step.queue)) {
            if let QueueAt::Broker(at) = queue
                && !all.iter().any(|other| other.name() == at.name())
            {
                all.push(at);
            }
        }
        all
    }
}

fn shown(queue: &QueueAt) -> String {
    match queue {
        QueueAt::Table => "sqlite:".to_owned(),
        QueueAt::Broker(at) => at.name(),
        QueueAt::Named(name) => name.clone(),
    }
}

/// Puts the address in for a name.
fn resolve(queue: &mut QueueAt, config: &Config) -> Result<(), String> {
    let QueueAt::Named(name) = &*queue else { return Ok(()) };
    let Some(at) = config.broker(queue).cloned() else {
        let known: Vec<&str> = config.queues.iter().filter_map(|rules| rules.name.as_deref()).collect();
        let known = if known.is_empty() { "it names none".to_owned() } else { format!("it has {}", known.join(", ")) };
        return Err(format!("no such queue: the machine's file has no [queues.{name}] ({known}); expected a URL, or one of these"));
    };
    *queue = QueueAt::Broker(at);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MadeUp, Overrides};
    use std::path::Path;

    fn config(environment: &[(&str, &str)], text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.toml");
        std::fs::write(&file, text).unwrap();
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::load(&Overrides { file: Some(file), environment, ..Overrides::default() }).map_err(|e| e.to_string())
    }

    fn lone(config: &Config) -> Result<Pipeline, String> {
        let pipeline = Pipeline::load(Path::new("/g/resize.wasm"), &MadeUp::default(), &config.limits).unwrap();
        pipeline.placed(config, "resize.wasm").map_err(|e| e.to_string())
    }

    fn file(config: &Config, text: &str) -> Result<Pipeline, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.toml");
        std::fs::write(&path, text).unwrap();
        let pipeline = Pipeline::load(&path, &MadeUp::default(), &config.limits).map_err(|e| e.to_string())?;
        pipeline.placed(config, "p.toml").map_err(|e| e.to_string())
    }

    const SHARED: (&str, &str) = ("DB_DSN", "postgres://u@h/d");

    fn names(queue: &QueueAt) -> String {
        shown(queue)
    }

    #[test]
    fn a_lone_guest_and_the_one_after_it_agree_by_their_queues_names() {
        let first = config(&[SHARED, ("QUEUE_URL", "redis://a?stream=pages"), ("NEXT_QUEUE_URL", "redis://a?stream=words")], "").unwrap();
        let first = lone(&first).unwrap();
        assert_eq!((first.entry.as_str(), first.steps[0].name.as_str(), first.steps[0].next.as_deref()), ("pages", "pages", Some("words")));
        assert_eq!(names(&first.steps[0].queue), "redis://a:6379/0?stream=pages");
        let next = Elsewhere { name: "words".into(), queue: first.elsewhere[0].queue.clone(), foreign: false, max_attempts: None };
        assert_eq!(first.elsewhere, [next]);
        assert_eq!(first.brokers().len(), 2);
        let second = lone(&config(&[SHARED, ("QUEUE_URL", "redis://u:p@a?stream=words")], "").unwrap()).unwrap();
        assert_eq!((second.entry.as_str(), names(&second.steps[0].queue)), ("words", names(&first.elsewhere[0].queue)));
        let named = config(&[SHARED, ("QUEUE_URL", "redis://a?stream=words"), ("WASM_WORKER_STEP", "read")], "").unwrap();
        assert_eq!(lone(&named).unwrap().entry, "read");
        let round = config(&[SHARED, ("QUEUE_URL", "redis://a?stream=pages"), ("NEXT_QUEUE_URL", "redis://a?stream=pages")], "").unwrap();
        let round = lone(&round).unwrap();
        assert_eq!((round.steps[0].next.as_deref(), round.elsewhere.len(), round.brokers().len()), (Some("pages"), 0, 1));
    }

    #[test]
    fn the_machine_says_where_a_pipelines_entry_and_its_children_wait() {
        let text = "[steps.a]\nguest = 'a.wasm'\nqueue = 'redis://x?stream=own'\nnext = 'b'\n[steps.b]\nguest = 'b.wasm'";
        let machine = config(&[SHARED, ("QUEUE_URL", "http://h:1/1/in"), ("NEXT_QUEUE_URL", "http://h:1/1/out")], "").unwrap();
        let pipeline = file(&machine, text).unwrap();
        let queues: Vec<String> = pipeline.steps.iter().map(|step| names(&step.queue)).collect();
        assert_eq!((queues, pipeline.elsewhere.len()), (vec!["http://h:1/1/in".to_owned(), "http://h:1/1/out".to_owned()], 0));
        let foreign = config(&[("NEXT_QUEUE_URL", "http://h:1/1/out"), ("NEXT_QUEUE_FOREIGN", "true")], "").unwrap();
        let pipeline = file(&foreign, &text.replace("queue = 'redis://x?stream=own'\n", "")).unwrap();
        assert_eq!((pipeline.steps[0].next.as_deref(), pipeline.elsewhere[0].foreign), (Some("out"), true));
        let table = config(&[("NEXT_QUEUE_URL", "sqlite:")], "").unwrap();
        assert_eq!(file(&table, &text.replace("queue = 'redis://x?stream=own'\n", "")).unwrap().steps[1].queue, QueueAt::Table);
        assert!(lone(&table).unwrap_err().contains("queue.next"), "children of a lone guest cannot wait in the table");
    }

    #[test]
    fn names_of_queues_are_the_machines() {
        let text = "[steps.a]\nguest = 'a.wasm'\nqueue = 'pages'\n[steps.out]\nqueue = 'words'\nforeign = true\nmax_attempts = 2";
        let rules = "[queues.pages]\nurl = 'redis://u:secret@h?stream=p'\ntenant = 'x'\ntrusted = true\ninputs = ['scans', '/srv/in']\n";
        let machine =
            config(&[SHARED], &format!("{rules}[queues.words]\nurl = 'redis://h?stream=w'\n[queues.'redis://h?stream=z']\n")).unwrap();
        let pipeline = file(&machine, text).unwrap();
        assert_eq!(
            (names(&pipeline.steps[0].queue), names(&pipeline.elsewhere[0].queue)),
            ("redis://h:6379/0?stream=p".into(), "redis://h:6379/0?stream=w".into())
        );
        let pages = &machine.queues[0];
        assert_eq!(
            (pages.tenant.as_deref(), pages.trusted, pages.inputs[0].as_str(), pages.inputs[1].as_str()),
            (Some("x"), true, "s3://scans/", "file:///srv/in/")
        );
        let error = file(&config(&[SHARED], rules).unwrap(), text).unwrap_err();
        assert!(error.contains("steps.out.queue = words: no such queue") && error.contains("it has pages"), "{error}");
        for (text, part) in [
            ("[queues.pages]\ntenant = 'x'", "queues.pages.url: is missing"),
            ("[queues.pages]\nurl = 'sqlite:'", "no queue of a broker"),
            ("[queues.'redis://u:secret@h']", "?stream=NAME"),
            ("[queues.'redis://u:secret@h?stream=s']\ntrusted = 3", "redis://h:6379/0?stream=s.trusted"),
        ] {
            let error = config(&[], text).unwrap_err();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn workers_of_a_queue_share_their_store_or_are_one() {
        let queue = ("QUEUE_URL", "redis://u:secret@h?stream=s");
        for store in [None, Some(("DB_DSN", "sqlite:/a/b.db"))] {
            let environment: Vec<_> = store.into_iter().chain([queue]).collect();
            let error = config(&environment, "").unwrap_err();
            for part in
                ["environment variable QUEUE_URL: queue.url = redis://h:6379/0?stream=s", "DB_DSN=postgres://", "WASM_WORKER_SINGLE=true"]
            {
                assert!(error.contains(part) && !error.contains("secret"), "{error}");
            }
            let single: Vec<_> = environment.into_iter().chain([("WASM_WORKER_SINGLE", "true")]).collect();
            config(&single, "").unwrap();
        }
        let of_file = "[steps.a]\nguest = 'a.wasm'\nqueue = 'redis://h?stream=s'";
        assert!(
            file(&config(&[], "").unwrap(), of_file)
                .unwrap_err()
                .contains("p.toml: steps.a.queue = redis://h:6379/0?stream=s: its workers need")
        );
        file(&config(&[SHARED], "").unwrap(), of_file).unwrap();
        let foreign = "[steps.a]\nguest = 'a.wasm'\nnext = 'b'\n[steps.b]\nqueue = 'redis://h?stream=s'\nforeign = true";
        file(&config(&[], "").unwrap(), foreign).unwrap();
        for text in [of_file, foreign] {
            let normal = config(&[("WASM_WORKER_SINGLE", "true"), ("WASM_WORKER_DURABILITY", "normal")], "").unwrap();
            assert!(file(&normal, text).unwrap_err().contains("power cut"));
        }
        let normal = [queue, SHARED, ("WASM_WORKER_DURABILITY", "normal")];
        assert!(config(&normal, "").unwrap_err().contains("WASM_WORKER_DURABILITY: store.durability"));
    }

    #[test]
    fn a_table_as_queue_is_the_store() {
        let one = config(&[("QUEUE_URL", "postgres://u@h/d")], "").unwrap();
        assert_eq!(one.store, config(&[SHARED], "").unwrap().store);
        config(&[("QUEUE_URL", "postgres://u@h/d"), SHARED], "").unwrap();
        config(&[("QUEUE_URL", "sqlite:"), SHARED], "").unwrap();
        let error = config(&[("QUEUE_URL", "postgres://u:secret@h/other"), SHARED], "").unwrap_err();
        assert!(error.contains("another database than store.dsn (environment variable DB_DSN)") && !error.contains("secret"), "{error}");
        let own = "[steps.a]\nguest = 'a.wasm'\nqueue = 'postgres://u:secret@h/other'";
        let error = file(&config(&[SHARED], "").unwrap(), own).unwrap_err();
        assert!(error.contains("another database") && !error.contains("secret"), "{error}");
        assert_eq!(lone(&one).unwrap().entry, "resize", "a table has no name that a step could bear");
    }

    #[test]
    fn slips_in_a_pipelines_queues_are_named() {
        let machine = config(&[SHARED], "").unwrap();
        for (text, part) in [
            ("[steps.a]\nqueue = 'redis://u:secret@h?stream=s'", "at least one [steps.NAME] table with a guest"),
            ("[steps.a]\nguest = 'a.wasm'\nqueue = 'redis://u:secret@h?stream=s'\nforeign = true", "leave one of them out"),
            ("[steps.a]\nguest = 'a.wasm'\nqueue = 'amqp://u:secret@h'", "steps.a.queue = amqp://…@h: scheme 'amqp'"),
            ("entry = 'b'\n[steps.a]\nguest = 'a.wasm'\n[steps.b]\nqueue = 'redis://u:secret@h?stream=s'", "run elsewhere"),
            ("[steps.a]\nguest = 'a.wasm'\n[steps.b]\nqueue = 'sqlite:'", "steps.b.guest: is missing"),
            ("[steps.a]\nguest = 'a.wasm'\n[steps.b]\nnext = 'a'\nlimits = {}", "steps.b.guest: is missing"),
            ("[steps.a]\nguest = 'a.wasm'\n[steps.b]\nqueue = 'redis://u:secret@h?stream=s'\nnext = 'a'", "steps.b.next: unknown key"),
        ] {
            let error = file(&machine, text).unwrap_err();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
