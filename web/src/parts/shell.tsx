/** The frame of every page: name, trail and the title of the tab. */
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";
import { KeyHelp } from "./keys";

export interface Crumb {
  text: string;
  /** Where it leads; none for the page itself. */
  href?: string;
}

interface Props {
  title: string;
  crumbs?: Crumb[];
  /** Links and buttons at the right end of the bar. */
  actions?: ComponentChildren;
  children: ComponentChildren;
}

export function Shell({ title, crumbs = [], actions, children }: Props) {
  useEffect(() => {
    document.title = title === "saelab" ? title : `${title} · saelab`;
  }, [title]);
  return (
    <>
      <header class="bar">
        <a class="brand" href="/">
          saelab
        </a>
        <nav aria-label="Breadcrumb">
          <ol>
            {crumbs.map(({ text, href }) => (
              <li key={text}>{href ? <a href={href}>{text}</a> : <span aria-current="page">{text}</span>}</li>
            ))}
          </ol>
        </nav>
        <div class="bar-actions">
          {actions}
          <KeyHelp />
        </div>
      </header>
      <main>{children}</main>
    </>
  );
}
