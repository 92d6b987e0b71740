package words

import "testing"

// TestSite: sites are written as they are shown.
func TestSite(t *testing.T) {
	for text, want := range map[string]Site{
		"Google.com.": "google.com", "*.example.org": "*.example.org", "10.0.0.1": "10.0.0.1",
		"127.0.0.1:10026": "127.0.0.1:10026", "[2001:db8::1]:26": "[2001:db8::1]:26", "2001:db8::1": "2001:db8::1",
		"": "", "a b": "", "bücher.example": "", "host:0": "", "host:99999": "", "-x.example": "", "*": "",
	} {
		var s Site
		if err := s.Parse(text); (err == nil) != (want != "") || err == nil && s != want {
			t.Errorf("%q: %q %v, want %q", text, s, err, want)
		}
	}
}
