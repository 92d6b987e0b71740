// Package post is the demo's mail: the invented domains, the inbox that plays
// their mail servers, the clients that write, and the ledger that checks the
// relays' word from outside. It knows relays by their SMTP address and by the
// lists of their queues alone.
package post

// HomeDomain is where the senders live.
const HomeDomain = "college.test"

// unknownPrefix begins local parts that exist nowhere.
const unknownPrefix = "gone."

// Domain is one invented domain and how its mail server behaves.
type Domain struct {
	Name    string
	What    string // it does
	Host    string // address of its mail server; empty: no such domain
	share   int    // of the recipients, in percent
	unknown int    // percent of its recipients that do not exist
	grey    bool   // turns every recipient away once
}

// DeadHost is an address of loopback on which nothing listens at first.
const DeadHost = "127.0.0.9"

// Lighthouse is the domain whose server is down, by its place in Domains.
const Lighthouse = 3

// Domains are where the mail goes.
var Domains = []Domain{
	{Name: "harbour.test", share: 45, Host: "127.0.0.1", What: "takes everything"},
	{Name: "museum.test", share: 20, unknown: 15, Host: "127.0.0.1", What: "some recipients do not exist: 550, they bounce"},
	{Name: "library.test", share: 20, grey: true, Host: "127.0.0.1", What: "greylists: 451 at first, taken at the next attempt"},
	{Name: "lighthouse.test", share: 10, Host: DeadHost, What: "its server is down: the mail waits in the queue"},
	{Name: "nowhere.test", share: 5, What: "does not exist in the DNS: bounces"},
}

func find(name string) *Domain {
	for i := range Domains {
		if Domains[i].Name == name {
			return &Domains[i]
		}
	}
	return nil
}

var (
	people    = []string{"ana", "bo", "carla", "dev", "emeka", "farah", "goran", "hana", "ivo", "june", "kofi", "lena", "mei", "noor", "omar", "priya"}
	subjects  = []string{"Room change on Thursday", "Minutes of the meeting", "Your library loan", "Invoice 4711", "Lunch?", "Exam results", "Re: printer on floor 3", "Boiler inspection", "Welcome to the team", "Night shift"}
	sentences = []string{
		"the seminar has moved to room 204, because the projector in 112 is being repaired.",
		"Please send me the figures for the third quarter before Friday.",
		"..and that is where the story ends, at least for now.",
		"I have put the minutes on the shared drive; corrections until Tuesday, please.",
		"Could you bring the keys for the north entrance?",
		"The ferry leaves at 07:40, the next one only at noon.",
		". A line that begins with a dot arrives as it was written.",
		"Thank you for the quick answer, that settles it.",
	}
)
