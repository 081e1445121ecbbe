// The pages of this folder: their links lead somewhere, and their code is Go.

package wire2

import (
	"go/format"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	pageLink = regexp.MustCompile(`\]\(([^)]+)\)`)
	pageCode = regexp.MustCompile("(?ms)^```go\n(.*?)^```$")
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// anchors returns the fragments of a page's headings.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		found[strings.ReplaceAll(name, " ", "-")] = true
	}
	return found
}

func TestPageLinks(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"README.md", "MIGRATION.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range pageLink.FindAllStringSubmatch(string(text), -1) {
			path, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			target := text
			if path != "" {
				if info, err := os.Stat(filepath.FromSlash(path)); err != nil {
					t.Errorf("%s: %s: %v", page, m[1], err)
					continue
				} else if info.IsDir() {
					continue
				}
				target, _ = os.ReadFile(filepath.FromSlash(path))
			}
			if fragment != "" && !anchors(string(target))[fragment] {
				t.Errorf("%s: %s: no such heading", page, m[1])
			}
		}
	}
}

func TestPageCode(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("MIGRATION.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := pageCode.FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		t.Errorf("%d programs found", len(blocks))
	}
	for _, m := range blocks {
		if formatted, err := format.Source([]byte(m[1])); err != nil || string(formatted) != m[1] {
			t.Errorf("not formatted, or not Go: %v\n%s", err, m[1])
		}
	}
}
