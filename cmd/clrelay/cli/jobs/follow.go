package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clrelay/clrelay/internal/cmdline"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

const (
	againAfter = 500 * time.Millisecond // between tries to find a node that answers
	talkEvery  = 10 * time.Second       // between lines, where there is no terminal
	barWidth   = 28
)

// Follow shows how far a job is until it has ended, and gives it. A node that
// ends meanwhile is no end: the next one that can be reached is asked. After
// Ctrl-C, or when ctx is over, the job goes on.
func Follow(ctx context.Context, c *cmdline.Console, with Connect, id string) (*adminv1.Job, error) {
	show := &progress{Console: c, now: time.Now}
	for {
		job, err := watch(ctx, with, id, show)
		show.end()
		switch {
		case job != nil && New(job).over():
			return job, nil
		case errors.Is(ctx.Err(), context.Canceled):
			c.Talk("Job %s goes on. Follow it with: clrelay job wait %s", id, id)
			return nil, cmdline.Exitf(cmdline.ExitInterrupted, "interrupted")
		case ctx.Err() != nil:
			c.Talk("Job %s goes on. Follow it with: clrelay job wait %s", id, id)
			return nil, cmdline.Exitf(cmdline.ExitUnreachable, "the job has not ended yet")
		case !cmdline.Passing(err):
			return nil, err
		}
		t := time.NewTimer(againAfter)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// watch follows a job over one connection and gives what was said last.
func watch(ctx context.Context, with Connect, id string, show *progress) (last *adminv1.Job, err error) {
	err = with(func(conn grpc.ClientConnInterface) error {
		stream, err := adminv1.NewJobServiceClient(conn).Watch(ctx, &adminv1.WatchRequest{Id: id})
		for err == nil {
			var res *adminv1.WatchResponse
			if res, err = stream.Recv(); err == nil {
				last = res.GetJob()
				show.step(New(last))
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case status.Code(err) == codes.Canceled && ctx.Err() == nil:
			return status.Error(codes.Unavailable, "the relay ended")
		}
		return err
	})
	return last, err
}

// progress shows how far a job is: on a terminal as a bar, elsewhere as a line
// now and then.
type progress struct {
	*cmdline.Console
	now    func() time.Time
	talked time.Time
	drawn  int
	begun  bool
}

func (p *progress) step(j *Job) {
	if !p.begun {
		p.begun, p.talked = true, p.now()
		if !j.over() && !p.Terminal() {
			p.Talk("job %s: %s", j.ID, j.State)
		}
	}
	switch {
	case j.over():
	case p.Terminal():
		line := bar(j)
		// A terminal that cannot be written to is of no use for anything else either.
		_, _ = fmt.Fprintf(p.Stderr, "\r%s%s", line, strings.Repeat(" ", max(0, p.drawn-len(line))))
		p.drawn = len(line)
	case p.now().Sub(p.talked) >= talkEvery:
		p.talked = p.now()
		p.Talk("%s", bar(j))
	}
}

// bar is one line about a job.
func bar(j *Job) string {
	share := 0
	if j.Total > 0 {
		share = int(min(j.Recipients, j.Total) * barWidth / j.Total)
	}
	line := fmt.Sprintf("job %s: %s [%s%s] %s/%s", j.ID, j.State, strings.Repeat("#", share), strings.Repeat("-", barWidth-share), cmdline.Count(j.Recipients), cmdline.Count(j.Total))
	if j.Note != "" {
		line += " " + cmdline.Cell(j.Note, 100)
	}
	return line
}

// end leaves the line of the bar.
func (p *progress) end() {
	if p.drawn > 0 {
		_, _ = fmt.Fprint(p.Stderr, "\n")
		p.drawn = 0
	}
}
