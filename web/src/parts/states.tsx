/** What stands in for data that is not there: on its way, failed, or none. */
import type { ComponentChildren } from "preact";
import type { ApiError } from "../api/client";
import { Shell } from "./shell";

export const Loading = ({ what }: { what: string }) => (
  <p class="state" role="status">
    <span class="spinner" aria-hidden="true" /> Loading {what} …
  </p>
);

export const Empty = ({ children }: { children: ComponentChildren }) => <p class="state">{children}</p>;

/** An error beside other content. */
export const Failure = ({ error }: { error: ApiError }) => (
  <div class="failure" role="alert">
    <strong>{error.title}</strong>
    <p>{error.detail}</p>
  </div>
);

/** An error in place of a page. */
export const FailurePage = ({ error }: { error: ApiError }) => (
  <Shell title={error.title}>
    <div class="failure-page" role="alert" data-testid="failure">
      {error.status > 0 && <p class="failure-status">{error.status}</p>}
      <h1>{error.title}</h1>
      <p>{error.detail}</p>
      <p>
        <a href="/">All runs</a>
      </p>
    </div>
  </Shell>
);
