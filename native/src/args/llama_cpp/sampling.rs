//! How the next token is chosen.

use super::{COMMON, Flag, Group, TEXT, nothing, partly, refused, refused_but};

const DRAWS_NOTHING: &str = "no token is chosen here";
const CHAIN: &str = "logit bias, penalties, top-k, top-p, min-p and temperature follow each other always; give a neutral value for what is unwanted";
const GRAMMAR: &str = "replies are not held to a grammar here; leave it out";

pub const GROUP: Group = Group { title: "Sampling", flags: FLAGS };

/// A sampler that is there in run and chat.
const fn sampler(names: &'static [&'static str], value: &'static str) -> Flag {
    partly(TEXT, COMMON, names, value, DRAWS_NOTHING)
}

/// A sampler that is not there, and the values that turn it off.
const fn no_sampler(names: &'static [&'static str], value: &'static str, off: &'static [&'static str]) -> Flag {
    refused_but(COMMON, names, value, off, "this sampler is not there; --temp, --top-k, --top-p and --min-p are")
}

/// A setting of a sampler that is not there.
const fn no_setting(names: &'static [&'static str], value: &'static str) -> Flag {
    nothing(COMMON, names, value, "the sampler that it belongs to is not there")
}

const FLAGS: &[Flag] = &[
    sampler(&["-s", "--seed"], "SEED"),
    sampler(&["--temp", "--temperature"], "N"),
    sampler(&["--top-k"], "N"),
    sampler(&["--top-p"], "N"),
    sampler(&["--min-p"], "N"),
    sampler(&["--repeat-last-n"], "N"),
    sampler(&["--repeat-penalty"], "N"),
    sampler(&["--presence-penalty"], "N"),
    sampler(&["--frequency-penalty"], "N"),
    sampler(&["-l", "--logit-bias"], "TOKEN_ID(+/-)BIAS"),
    refused(COMMON, &["--samplers"], "SAMPLERS", CHAIN),
    refused(COMMON, &["--sampler-seq", "--sampling-seq"], "SEQUENCE", CHAIN),
    nothing(COMMON, &["-bs", "--backend-sampling"], "", "everything runs on the CPU"),
    no_sampler(&["--top-nsigma", "--top-n-sigma"], "N", &["-1", "0"]),
    no_sampler(&["--xtc-probability"], "N", &["0"]),
    no_setting(&["--xtc-threshold"], "N"),
    no_sampler(&["--typical", "--typical-p"], "N", &["1"]),
    no_sampler(&["--dry-multiplier"], "N", &["0"]),
    no_setting(&["--dry-base"], "N"),
    no_setting(&["--dry-allowed-length"], "N"),
    no_setting(&["--dry-penalty-last-n"], "N"),
    no_setting(&["--dry-sequence-breaker"], "STRING"),
    no_sampler(&["--adaptive-target"], "N", &["-1"]),
    no_setting(&["--adaptive-decay"], "N"),
    no_sampler(&["--dynatemp-range"], "N", &["0"]),
    no_setting(&["--dynatemp-exp"], "N"),
    no_sampler(&["--mirostat"], "N", &["0"]),
    no_setting(&["--mirostat-lr"], "N"),
    no_setting(&["--mirostat-ent"], "N"),
    refused(COMMON, &["--grammar"], "GRAMMAR", GRAMMAR),
    refused(COMMON, &["--grammar-file"], "FNAME", GRAMMAR),
    refused(COMMON, &["-j", "--json-schema"], "SCHEMA", GRAMMAR),
    refused(COMMON, &["-jf", "--json-schema-file"], "FILE", GRAMMAR),
];
