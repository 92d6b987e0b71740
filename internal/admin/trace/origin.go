package trace

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// soon is how long after its ID was made a message has its first event, but for
// one whose content took longer or that another node took over.
const soon = 10 * time.Minute

// Origin gives the sender and the recipients of a message, as its first event
// has them: of very many recipients the first. Where nothing is known of it from
// is empty; that some node may know and does not answer is an error.
//
// Traces are read from the newest on and up to a bound, and what came back is in
// them too: so the time of the first event is looked at by itself before all is,
// or who sends enough to one return path would have the origin forgotten.
func (s *Service) Origin(ctx context.Context, id mail.ID) (from string, rcpts []string, err error) {
	from, rcpts, err = s.originUntil(ctx, id, timestamppb.New(id.Time().Add(soon)))
	if from != "" {
		return from, rcpts, err
	}
	return s.originUntil(ctx, id, nil)
}

func (s *Service) originUntil(ctx context.Context, id mail.ID, until *timestamppb.Timestamp) (from string, rcpts []string, err error) {
	req := &adminv1.SearchRequest{Ids: []string{id.String()}, Until: until}
	own, err := s.Search(ctx, req)
	if err != nil {
		return "", nil, err
	}
	if e := first(own.GetEvents(), id); e != nil {
		return e.GetFrom(), e.GetRcpts(), nil
	}
	all, err := s.ask(ctx, req)
	if err != nil {
		return "", nil, err
	}
	if e := first(all.events, id); e != nil {
		return e.GetFrom(), e.GetRcpts(), nil
	}
	if len(all.missing) > 0 {
		return "", nil, fmt.Errorf("trace: no answer from %s", strings.Join(all.missing, ", "))
	}
	return "", nil, nil
}

// first finds an event that has the whole envelope.
func first(events []*adminv1.TraceEvent, id mail.ID) *adminv1.TraceEvent {
	for _, e := range events {
		if e.GetId() == id.String() && (e.GetEvent() == "accepted" || e.GetEvent() == "taken_over") {
			return e
		}
	}
	return nil
}
