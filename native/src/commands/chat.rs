//! `sterna chat`: a conversation in the terminal, through the model's own chat template.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use sterna_core::generate::chat::{ChatTemplate, Extras, Message, TemplateError};
use sterna_core::generate::{Finish, GenerateOptions};
use sterna_core::tokenizer::EncodeOptions;
use sterna_core::{Error, Model, Sampling, Session, SessionOptions};

use crate::Out;
use crate::args::{EngineArgs, LimitArgs, ModelArgs, PerfArgs, PromptArgs, SamplingArgs, read_text};
use crate::engine;
use crate::ui::stream::Printer;
use crate::ui::{interrupt, message, text};

/// What `sterna chat` takes.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Which model.
    #[command(flatten)]
    pub model: ModelArgs,
    /// What the model is told before the conversation; also -sys.
    #[arg(long, value_name = "TEXT")]
    pub system_prompt: Option<String>,
    /// Read that from a file; also -sysf.
    #[arg(long, value_name = "FILE", conflicts_with = "system_prompt")]
    pub system_prompt_file: Option<PathBuf>,
    /// What is said first.
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Where a reply ends.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// End after the first reply; also -st.
    #[arg(long)]
    pub single_turn: bool,
    /// A line that ends with \ ends the message, rather than going on with the next line; also -mli.
    #[arg(long)]
    pub multiline_input: bool,
    /// A built-in template by name instead of the file's own.
    #[arg(long, value_name = "NAME")]
    pub chat_template: Option<String>,
    /// A Jinja template from a file instead of the model's own.
    #[arg(long, value_name = "FILE", conflicts_with = "chat_template")]
    pub chat_template_file: Option<PathBuf>,
    /// What the template looks at beside the messages, as a JSON object, such as '{"enable_thinking": false}'.
    #[arg(long, value_name = "JSON", value_parser = extras)]
    pub chat_template_kwargs: Option<Extras>,
    /// Whether speeds are printed.
    #[command(flatten)]
    pub perf: PerfArgs,
    /// How the engine runs.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// How the next token is chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// Talks until the input ends or `/exit`.
pub fn run(args: &ChatArgs, out: &mut Out) -> Result<()> {
    let path = args.model.resolve()?;
    let system = match &args.system_prompt_file {
        Some(file) => Some(read_text(file)?),
        None => args.system_prompt.clone(),
    };
    engine::with_threads(args.engine.threads(), |exec| {
        let model = engine::load(&path, &args.engine.loading(), &*exec)?;
        let mut chat = Chat {
            template: template(&model, &path, args)?,
            session: model.session(SessionOptions { context: args.engine.context(), exec }),
            system: system.map(|text| Message::new("system", text)),
            messages: Vec::new(),
            extras: args.chat_template_kwargs.clone().unwrap_or_default(),
            sampling: args.sampling.sampling(),
            limits: args.limits.options(&args.prompt)?,
            perf: !args.perf.no_perf,
            single_turn: args.single_turn,
            multiline: args.multiline_input,
        };
        engine::warn_of_context(&chat.session);
        chat.sampling.check(model.transformer().vocabulary())?;
        if let Some(first) = args.prompt.given()? {
            chat.turn(&first, out)?;
            if args.single_turn {
                return Ok(());
            }
        }
        chat.talk(out)
    })?
}

/// A conversation and all that it needs to go on.
struct Chat {
    template: ChatTemplate,
    session: Session,
    system: Option<Message>,
    messages: Vec<Message>,
    extras: Extras,
    sampling: Sampling,
    limits: GenerateOptions,
    perf: bool,
    single_turn: bool,
    /// A backslash ends a message, rather than taking the next line into it.
    multiline: bool,
}

impl Chat {
    fn talk(&mut self, out: &mut Out) -> Result<()> {
        let terminal = io::stdin().is_terminal();
        if terminal {
            let backslash = if self.multiline { "sends the message" } else { "goes on with the next" };
            eprintln!("/clear begins anew, /exit or Ctrl-D ends; Ctrl-C stops a reply; \\ at a line's end {backslash}");
        }
        let mut said = String::new();
        loop {
            if terminal {
                eprint!("{}", if said.is_empty() { "> " } else { ". " });
                io::stderr().flush()?;
            }
            let mut line = String::new();
            let ended = io::stdin().lock().read_line(&mut line).context("cannot read stdin")? == 0;
            let line = line.trim_end_matches(['\n', '\r']);
            let marked = line.strip_suffix('\\');
            said.push_str(marked.unwrap_or(line));
            let goes_on = match self.multiline {
                true => marked.is_none() && !["/exit", "/clear"].contains(&said.trim()),
                false => marked.is_some(),
            };
            // What was begun when the input ends is said all the same.
            if goes_on && !ended {
                said.push('\n');
                continue;
            }
            match std::mem::take(&mut said).trim() {
                "" => {}
                "/exit" => return Ok(()),
                "/clear" => self.messages.clear(),
                message => {
                    self.turn(message, out)?;
                    if self.single_turn {
                        return Ok(());
                    }
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// One message and the reply to it.
    fn turn(&mut self, said: &str, out: &mut Out) -> Result<()> {
        let busy = interrupt::busy();
        self.messages.push(Message::new("user", said));
        let prompt = self.prompt()?;
        if prompt.len() >= self.session.context() {
            self.messages.pop();
            let (needed, limit) = (prompt.len(), self.session.context());
            let what = format!("the conversation has {needed} tokens, the context {limit}");
            if !self.attended() {
                bail!("{what}; -c sets another");
            }
            eprintln!("{what}: /clear begins anew, or start with a larger -c");
            return Ok(());
        }
        // Templates may rewrite what was said (drop thoughts, say); what is still the same stays in the cache.
        let same = self.session.keep_prefix(&prompt);
        let mut printer = Printer::new(out);
        engine::feed(&mut self.session, &prompt[same..], &busy)?;
        printer.prompt_done(prompt.len() - same);
        let mut reply = self.session.reply(&self.sampling, &self.limits)?;
        let mut answer = String::new();
        let mut failed = None;
        while !busy.requested()
            && failed.is_none()
            && let Some(piece) = reply.next()
        {
            match piece {
                Ok(piece) => {
                    printer.reply(&piece, reply.tokens())?;
                    answer.push_str(&piece);
                }
                Err(error) => failed = Some(error),
            }
        }
        let finish = reply.finish();
        printer.echo("\n")?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if self.perf && io::stderr().is_terminal() {
            eprintln!("[{}]", printer.speed().line());
        }
        if finish == Some(Finish::Context) {
            let clear = if self.attended() { "/clear begins anew, " } else { "" };
            let context = self.session.context();
            message::note(&format!(
                "the context of {context} tokens is full, so the reply ends here; {clear}-c sets another size"
            ));
        }
        if !io::stdin().is_terminal() {
            // Nobody is there to type the next message.
            busy.check()?;
        }
        self.messages.push(Message::new("assistant", answer));
        // The next reply draws on.
        self.sampling.seed = self.sampling.seed.wrapping_add(1);
        Ok(())
    }

    /// Whether a person is there who can go on after a message that was not taken.
    fn attended(&self) -> bool {
        io::stdin().is_terminal() && !self.single_turn
    }

    /// The whole conversation as tokens, ending where the reply begins.
    fn prompt(&self) -> Result<Vec<u32>> {
        let messages: Vec<Message> = self.system.iter().chain(&self.messages).cloned().collect();
        let now = i64::try_from(text::now()).ok();
        let rendered = self.template.render(&messages, true, &self.extras, now)?;
        let tokenizer = self.session.model().tokenizer()?;
        Ok(tokenizer.encode(&rendered, EncodeOptions { add_special: false, parse_special: true })?)
    }
}

/// What a template looks at beside the messages, as it is typed.
fn extras(json: &str) -> Result<Extras, String> {
    serde_json::from_str(json)
        .map_err(|error| format!("give a JSON object such as {{\"enable_thinking\": false}} ({error})"))
}

/// The template that was asked for, or the model's.
fn template(model: &Model, path: &Path, args: &ChatArgs) -> Result<ChatTemplate> {
    let source = args.chat_template_file.as_deref().map(read_text).transpose()?;
    if let (Some(path), Some(source)) = (&args.chat_template_file, &source)
        && source.trim().is_empty()
    {
        bail!("{} is empty; name a file with a chat template", path.display());
    }
    let given = source.as_deref().or(args.chat_template.as_deref());
    match model.chat_template(given) {
        Err(Error::Template(TemplateError::Missing { known })) => bail!(
            "{} has no chat template (tokenizer.chat_template); continue a text with `sterna run`, or name a template with --chat-template ({known})",
            path.display()
        ),
        Err(Error::Template(TemplateError::UnknownName { name, known })) => match &args.chat_template_file {
            Some(file) => bail!(
                "{} holds no Jinja template ({{{{ or {{%) and no name of a built-in one; give the template's source, or name one with --chat-template ({known})",
                file.display()
            ),
            None => Err(TemplateError::UnknownName { name, known }.into()),
        },
        other => Ok(other?),
    }
}
