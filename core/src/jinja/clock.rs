//! Dates and times. Nothing here reads a clock: the caller says what time it is.

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `datetime.strftime` in the C locale; what it does not know stays as it is. `%-d` and the like drop padding.
pub fn strftime(format: &str, seconds: i64) -> String {
    let days = seconds.div_euclid(86_400);
    let time = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let (year, month, day) = civil(days);
    let weekday = (days + 4).rem_euclid(7);
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = chars.next();
        }
        let mut digits = |value: i64, width: usize| {
            out.push_str(&format!("{value:0>width$}", width = if unpadded { 1 } else { width }));
        };
        match directive {
            Some('Y') => digits(year, 1),
            Some('y') => digits(year.rem_euclid(100), 2),
            Some('m') => digits(month, 2),
            Some('d') => digits(day, 2),
            Some('H') => digits(hour, 2),
            Some('I') => digits(hour12, 2),
            Some('M') => digits(minute, 2),
            Some('S') => digits(second, 2),
            Some('f') => digits(0, 6),
            Some('w') => digits(weekday, 1),
            Some('j') => digits(days - from_civil(year, 1, 1) + 1, 3),
            Some('s') => digits(seconds, 1),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('B') => out.push_str(MONTHS[(month - 1) as usize % 12]),
            Some('b' | 'h') => out.push_str(&MONTHS[(month - 1) as usize % 12][..3]),
            Some('A') => out.push_str(DAYS[weekday as usize % 7]),
            Some('a') => out.push_str(&DAYS[weekday as usize % 7][..3]),
            Some('e') => out.push_str(&format!("{day:>2}")),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('D' | 'x') => out.push_str(&format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100))),
            Some('T' | 'X') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('R') => out.push_str(&format!("{hour:02}:{minute:02}")),
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('%') => out.push('%'),
            // The time is local and its zone unknown, as of a datetime without one.
            Some('Z' | 'z') => {}
            other => {
                out.push_str(if unpadded { "%-" } else { "%" });
                out.extend(other);
            }
        }
    }
    out
}

/// Year, month, day of a day counted from 1970-01-01 (Howard Hinnant's algorithm: years start in March, so that
/// the leap day comes last).
fn civil(days: i64) -> (i64, i64, i64) {
    // Time stamps a million years off are as good as any other; it keeps the sums in range.
    let z = days.clamp(-400_000_000, 400_000_000) + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * day_of_year + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * march + 2) / 5 + 1)
}

/// The inverse of [`civil`].
fn from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let year_of_era = year.rem_euclid(400);
    let march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    year.div_euclid(400) * 146_097 + day_of_era - 719_468
}
