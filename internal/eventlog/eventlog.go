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
	maxRecords = 1024                   // records that wait for a Logger
	flushTime  = 250 * time.Millisecond // how long Close waits for them
)

// A Log hands records to the Logger in order, in a goroutine of its own that
// lives while there are any. So the Logger is never called with a lock held, and
// delays nothing. It is safe for concurrent use.
type Log struct {
	Logger *slog.Logger // nil: silent. This and Attrs are set before the first record
	Attrs  []any        // of every record, as slog.Logger.With takes them

	mu      sync.Mutex // guards what follows
	records []logRecord
	dropped int
	idle    chan struct{} // closed when no goroutine runs; nil while none does
}

type logRecord struct {
	level   slog.Level
	message string
	args    []any
}

// Debug, Info, Warn and Err add a record of that level.
func (l *Log) Debug(message string, args ...any) { l.add(slog.LevelDebug, message, args) }
func (l *Log) Info(message string, args ...any)  { l.add(slog.LevelInfo, message, args) }
func (l *Log) Warn(message string, args ...any)  { l.add(slog.LevelWarn, message, args) }
func (l *Log) Err(message string, args ...any)   { l.add(slog.LevelError, message, args) }

func (l *Log) add(level slog.Level, message string, args []any) {
	if l.Logger == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.records) == maxRecords {
		l.dropped++
		return
	}
	l.records = append(l.records, logRecord{level, message, args})
	if l.idle == nil {
		l.idle = make(chan struct{})
		go l.run(l.idle)
	}
}

// run logs until there is no record any more.
func (l *Log) run(idle chan struct{}) {
	defer close(idle)
	for {
		records := l.take()
		if records == nil {
			return
		}
		for _, r := range records {
			l.Logger.Log(context.Background(), r.level, r.message, append(slices.Clip(l.Attrs), r.args...)...)
		}
	}
}

// take returns the records that wait, and nil when the goroutine has to end.
func (l *Log) take() []logRecord {
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

// Flush waits until all records are logged, for a moment.
func (l *Log) Flush(ctx context.Context) {
	l.mu.Lock()
	idle := l.idle
	l.mu.Unlock()
	if idle == nil {
		return
	}
	late := time.NewTimer(flushTime)
	defer late.Stop()
	select {
	case <-idle:
	case <-late.C:
	case <-ctx.Done():
	}
}
