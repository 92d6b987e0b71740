package jobs

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// kept is a job with the version of its record.
type kept struct {
	*adminv1.Job
	version uint64
}

// store reads and writes jobs.
type store struct{ Records }

// all gives all jobs, the oldest first. A record that cannot be read is of a
// newer program, and left alone.
func (s store) all() (list []kept) {
	for _, r := range s.Records.Records(prefix) {
		job := &adminv1.Job{}
		if proto.Unmarshal(r.Value, job) == nil && job.GetId() == strings.TrimPrefix(r.Key, prefix) {
			list = append(list, kept{job, r.Version})
		}
	}
	slices.SortFunc(list, func(a, b kept) int {
		return cmp.Or(a.GetCreated().AsTime().Compare(b.GetCreated().AsTime()), strings.Compare(a.GetId(), b.GetId()))
	})
	return list
}

// get gives one job.
func (s store) get(id string) (kept, bool) {
	for _, r := range s.Records.Records(prefix + id) {
		job := &adminv1.Job{}
		if r.Key == prefix+id && proto.Unmarshal(r.Value, job) == nil {
			return kept{job, r.Version}, true
		}
	}
	return kept{}, false
}

// open gives the oldest job that has not ended.
func (s store) open() (kept, bool) {
	for _, k := range s.all() {
		if !ended(k.Job) {
			return k, true
		}
	}
	return kept{}, false
}

// errGone says that a job is not kept any more.
var errGone = errors.New("jobs: the job is not there any more")

// update changes a job, whoever else does so at the same time. change returns
// false where nothing is to be written.
func (s store) update(ctx context.Context, id string, change func(*adminv1.Job) bool) (*adminv1.Job, error) {
	for {
		k, ok := s.get(id)
		if !ok {
			return nil, errGone
		}
		if !change(k.Job) {
			return k.Job, nil
		}
		value, err := proto.Marshal(k.Job)
		if err != nil {
			return nil, fmt.Errorf("jobs: %w", err)
		}
		err = s.Put(ctx, prefix+id, value, k.version)
		if !errors.Is(err, ErrConflict) {
			return k.Job, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// add writes a new job under a name that no other has.
func (s store) add(ctx context.Context, job *adminv1.Job) error {
	for {
		var raw [5]byte
		if _, err := rand.Read(raw[:]); err != nil {
			return fmt.Errorf("jobs: %w", err)
		}
		job.Id = "j-" + strings.ToLower(base32.StdEncoding.EncodeToString(raw[:]))
		value, err := proto.Marshal(job)
		if err != nil {
			return fmt.Errorf("jobs: %w", err)
		}
		if len(value) > maxRecord {
			return &TooLargeError{len(value)}
		}
		if err := s.Put(ctx, prefix+job.GetId(), value, 0); !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

// TooLargeError says that a selector is too long for a job.
type TooLargeError struct{ Octets int }

// Error says what to do.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the selector takes %d octets, and a job has room for %d: name fewer things, or say it in several steps", e.Octets, maxRecord)
}

// prune forgets the oldest jobs that have ended. What fails is done next time.
func (s store) prune(ctx context.Context) {
	list := slices.DeleteFunc(s.all(), func(k kept) bool { return !ended(k.Job) })
	for _, k := range list[:max(0, len(list)-keepEnded)] {
		_ = s.Put(ctx, prefix+k.GetId(), nil, k.version)
	}
}

func ended(j *adminv1.Job) bool {
	switch j.GetState() {
	case adminv1.JobState_JOB_STATE_DONE, adminv1.JobState_JOB_STATE_FAILED, adminv1.JobState_JOB_STATE_CANCELLED:
		return true
	}
	return false
}
