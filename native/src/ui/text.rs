//! Sizes, numbers, times and dates as text; tables are in [`table`].

use std::path::Path;
use std::time::Duration;

use serde::Serializer;

pub use super::table::{Align, table, width};

/// Bytes as people read them: `436.2 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A count as people read it: `1.72 B`, `260.03 K`.
pub fn count(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.2} B", n as f64 / 1e9),
        1_000_000.. => format!("{:.2} M", n as f64 / 1e6),
        1_000.. => format!("{:.2} K", n as f64 / 1e3),
        _ => n.to_string(),
    }
}

/// A whole number with commas: `1,059`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time as people say it: `45 s`, `12 min`, `3 h 20 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..100 => format!("{seconds} s"),
        100..5_400 => format!("{} min", (seconds + 30) / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// How the size changed: `3.20 times smaller`, `3.23 times larger`, `the same size`.
pub fn resized(before: u64, after: u64) -> String {
    let times = |a: u64, b: u64| format!("{:.2}", a as f64 / (b as f64).max(1.0));
    match () {
        () if before >= after && times(before, after) == "1.00" || before < after && times(after, before) == "1.00" => {
            "the same size".to_owned()
        }
        () if before > after => format!("{} times smaller", times(before, after)),
        () => format!("{} times larger", times(after, before)),
    }
}

/// Who measured, where and when: two lines for the end of a report.
pub fn provenance(cpu: &str) -> String {
    format!("sterna {}\n{cpu}, {}", crate::VERSION, timestamp(now()))
}

/// Seconds since 1970 as a date in UTC: `2026-11-20T04:08:20Z`.
pub fn timestamp(seconds: u64) -> String {
    let (y, m, d) = civil(seconds / 86_400);
    let s = seconds % 86_400;
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

/// Seconds since 1970 as a day in UTC: `2026-11-20`.
pub fn day(seconds: u64) -> String {
    timestamp(seconds)[..10].to_owned()
}

/// Seconds since 1970, now.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Year, month and day of a day since 1970-01-01. Counts in eras of 400 years that begin on a 1 March, so that the
/// leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// `text` for a terminal: control characters, which a file's author could use to rewrite the screen, are escaped, and
/// what exceeds `max` characters is cut.
pub fn plain(text: &str, max: usize) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == max {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A path in JSON, for `serialize_with`: what is no UTF-8 in it becomes U+FFFD. Serde itself refuses such paths.
///
/// # Errors
/// Those of the serializer.
pub fn path_as_json<P: AsRef<Path>, S: Serializer>(path: &P, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.as_ref().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(457_179_136), "436.0 MiB");
        assert_eq!(count(1_720_574_976), "1.72 B");
        assert_eq!(count(512), "512");
    }

    #[test]
    fn numbers_times_and_ratios_read_well() {
        for (n, text) in [(0, "0"), (999, "999"), (1_059, "1,059"), (12_345_678, "12,345,678")] {
            assert_eq!(thousands(n), text);
        }
        for (seconds, text) in
            [(0.4, "0 s"), (99.4, "99 s"), (100.0, "2 min"), (5_399.0, "90 min"), (5_400.0, "1 h 30 min")]
        {
            assert_eq!(duration(Duration::from_secs_f64(seconds)), text);
        }
        for ((before, after), text) in [
            ((320, 100), "3.20 times smaller"),
            ((31, 100), "3.23 times larger"),
            ((1000, 1001), "the same size"),
            ((1001, 1000), "the same size"),
            ((0, 5), "5.00 times larger"),
        ] {
            assert_eq!(resized(before, after), text);
        }
    }

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(day(1_709_251_200), "2024-03-01");
        assert_eq!(day(4_107_542_400), "2100-03-01");
    }

    #[test]
    fn terminal_escapes_in_files_are_shown_not_obeyed() {
        assert_eq!(plain("a\x1b[2Jb\n", 20), "a\\u{1b}[2Jb\\n");
        assert_eq!(plain("abcdef", 3), "abc…");
    }
}
