/* The status page, page.html, as the build has put it into a C file (embed.py). */
#ifndef TAILWATER_PAGE_H
#define TAILWATER_PAGE_H

extern const char page_html[];

#endif
