// Package docs holds the manual, so that the program can show it where there is
// no network.
package docs

import "embed"

// Pages are the pages, in Markdown.
//
//go:embed *.md runbooks/*.md
var Pages embed.FS
