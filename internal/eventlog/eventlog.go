// Package eventlog hands log records to a Logger. The Logger is user code: it may
// block, and it may call the endpoint that it logs for.
package eventlog

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	maxRecords     = 1024                   // maximum number of records that wait for a Logger
	flushTimeout   = 250 * time.Millisecond // how long Flush waits for them
	repeatInterval = time.Second            // between two warnings of one cause
)

// A Log hands records to the Logger in order. A goroutine, which runs while there are
// records, calls the Logger, so no caller holds a lock or waits meanwhile. A Log is
// safe for concurrent use.
type Log struct {
	Logger *slog.Logger // nil: nothing is logged. Set, like Attrs, before the first record
	Attrs  []any        // attributes of every record, as slog.Logger.With takes them

	mu           sync.Mutex // guards the fields below
	records      []logRecord
	dropped      int
	idle         chan struct{} // closed when the goroutine has ended; nil while none runs
	repeats      map[string]*repeat
	repeatsEnded bool
}

// A repeat is a warning whose cause was logged less than repeatInterval ago.
type repeat struct {
	newest logRecord // not logged yet; valid if count > 0
	count  int       // warnings that are not logged yet
	timer  *time.Timer
}

type logRecord struct {
	level   slog.Level
	message string
	args    []any
}

// Debug adds a record of level Debug.
func (l *Log) Debug(message string, args ...any) { l.add(slog.LevelDebug, message, args) }

// Info adds a record of level Info.
func (l *Log) Info(message string, args ...any) { l.add(slog.LevelInfo, message, args) }

// Warn adds a record of level Warn.
func (l *Log) Warn(message string, args ...any) { l.add(slog.LevelWarn, message, args) }

// Err adds a record of level Error.
func (l *Log) Err(message string, args ...any) { l.add(slog.LevelError, message, args) }

// WarnRepeated is like Warn but logs at most one warning of each cause a second. The
// first one is logged at once. The newest of those that follow is logged when the
// second has passed, with the attribute count if there were several. Causes must be
// few: each one that is repeated takes memory.
func (l *Log) WarnRepeated(cause, message string, args ...any) {
	if l.Logger == nil {
		return
	}
	record := logRecord{slog.LevelWarn, message, args}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r := l.repeats[cause]; r != nil {
		r.newest = record
		r.count++
		return
	}
	l.addLocked(record)
	if l.repeatsEnded {
		return
	}
	if l.repeats == nil {
		l.repeats = map[string]*repeat{}
	}
	l.repeats[cause] = &repeat{timer: time.AfterFunc(repeatInterval, func() { l.endInterval(cause) })}
}

// endInterval logs the warnings of a cause that were counted in the last second.
func (l *Log) endInterval(cause string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.repeats[cause]
	if r == nil {
		return
	}
	if r.count == 0 {
		delete(l.repeats, cause)
		return
	}
	l.addRepeatLocked(r)
	r.timer.Reset(repeatInterval)
}

// EndRepeats logs the warnings that WarnRepeated has counted. Later ones are logged
// at once.
func (l *Log) EndRepeats() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.repeatsEnded = true
	for _, r := range l.repeats {
		r.timer.Stop()
		if r.count > 0 {
			l.addRepeatLocked(r)
		}
	}
	l.repeats = nil
}

func (l *Log) addRepeatLocked(r *repeat) {
	if r.count > 1 {
		r.newest.args = append(slices.Clip(r.newest.args), "count", r.count)
	}
	l.addLocked(r.newest)
	r.newest, r.count = logRecord{}, 0
}

func (l *Log) add(level slog.Level, message string, args []any) {
	if l.Logger == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addLocked(logRecord{level, message, args})
}

func (l *Log) addLocked(record logRecord) {
	if len(l.records) == maxRecords {
		l.dropped++
		return
	}
	l.records = append(l.records, record)
	if l.idle == nil {
		l.idle = make(chan struct{})
		go l.run(l.idle)
	}
}

// run logs records until there are no more, and then closes idle.
func (l *Log) run(idle chan struct{}) {
	defer close(idle)
	for {
		records := l.takeRecords()
		if records == nil {
			return
		}
		for _, r := range records {
			l.Logger.Log(context.Background(), r.level, r.message, append(slices.Clip(l.Attrs), r.args...)...)
		}
	}
}

// takeRecords returns the waiting records, or nil if the goroutine has to end.
func (l *Log) takeRecords() []logRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	records := l.records
	if l.dropped > 0 {
		records = append(records, logRecord{slog.LevelWarn, "log records dropped: the Logger is too slow", []any{"count", l.dropped}})
	}
	l.records, l.dropped = nil, 0
	if records == nil {
		l.idle = nil
	}
	return records
}

// Flush waits until all records are logged, for 250 ms at most or until ctx is done.
func (l *Log) Flush(ctx context.Context) {
	l.mu.Lock()
	idle := l.idle
	l.mu.Unlock()
	if idle == nil {
		return
	}
	timer := time.NewTimer(flushTimeout)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	case <-ctx.Done():
	}
}
