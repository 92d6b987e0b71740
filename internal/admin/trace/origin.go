package trace

import (
	"context"
	"fmt"
	"strings"

	"github.com/clrelay/clrelay/internal/mail"
	adminv1 "github.com/clrelay/clrelay/proto/admin/v1"
)

// Origin gives the sender and the recipients of a message, as its first event
// has them: of very many recipients the first. Where nothing is known of it from
// is empty; that some node may know and does not answer is an error.
func (s *Service) Origin(ctx context.Context, id mail.ID) (from string, rcpts []string, err error) {
	req := &adminv1.SearchRequest{Ids: []string{id.String()}}
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
